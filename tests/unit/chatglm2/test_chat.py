"""Conversations: the original's chat(), long histories, and whether a prefix does anything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, ChatSession, Engine, Prefix, SamplingParams
from chatglm2.errors import PromptError
from chatglm2.text.prompt import clean_reply

GREEDY = SamplingParams(temperature=0, max_new_tokens=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ChatGLMForConditionalGeneration:
    return chatglm2.load_model(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def session(model, tokenizer) -> Iterator[ChatSession]:
    engine = Engine(model, slots=2)
    yield ChatSession(engine, tokenizer)
    engine.close()


def random_prefix(model: ChatGLMForConditionalGeneration) -> Prefix:
    config = model.config
    shape = (config.num_layers, 2, 6, config.multi_query_group_num, config.kv_channels)
    return Prefix(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3)


def test_chat_returns_the_reply_and_a_new_history(model, tokenizer) -> None:
    history = [("你好", "你好")]
    reply, longer = model.chat(tokenizer, "红色", history=history, max_length=60)
    assert longer == [("你好", "你好"), ("红色", reply)]
    assert history == [("你好", "你好")]


def test_stream_chat_grows_and_ends_as_chat_does(model, tokenizer) -> None:
    options = {"do_sample": False, "max_length": 60}
    steps = list(model.stream_chat(tokenizer, "红色", history=None, **options))
    replies = [reply for reply, _ in steps]
    assert all(len(before) <= len(after) for before, after in pairwise(replies))
    assert steps[-1][1] == [("红色", replies[-1])]
    assert replies[-1] == model.chat(tokenizer, "红色", **options)[0]


def test_torch_seed_repeats_a_sampled_reply(model, tokenizer) -> None:
    replies = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        replies.append(model.chat(tokenizer, "红色", max_length=80)[0])
    assert replies[0] == replies[1] != replies[2]


def test_beams_go_through_generate(model, tokenizer) -> None:
    reply, history = model.chat(tokenizer, "红色", max_length=40, num_beams=2, do_sample=False)
    assert history == [("红色", reply)]


def test_a_prompt_is_tokenized_once(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = tokenizer.encode_prompt
    monkeypatch.setattr(tokenizer, "encode_prompt", lambda query, *rest: encoded.append(query) or encode(query, *rest))
    list(model.stream_chat(tokenizer, "红色", history=[("你好", "你好")], max_length=60))
    assert encoded == ["红色"]


def test_max_length_counts_prompt_and_reply_to_the_token(model, tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode_prompt("红色")])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8}
    answer = model.generate(ids, **options)[0, ids.shape[1] :].tolist()
    replies = [clean_reply(tokenizer.decode_ids(answer[:count])) for count in (4, 5, 6)]
    assert len(set(replies)) == 3, "these tokens cannot be told apart by their text"
    for max_length in (ids.shape[1] + 5, ids.shape[1] + 4):  # the engine of the first has room for more than the second
        reply, _ = model.chat(tokenizer, "红色", max_length=max_length, do_sample=False)
        assert reply == replies[max_length - ids.shape[1] - 4]


def test_a_long_history_loses_its_oldest_rounds_and_says_so(session) -> None:
    history = [(f"红色{number}", "这件外套很百搭" * 2) for number in range(20)]
    reply = session.stream("你好", history, sampling=GREEDY)
    list(reply)
    assert 0 < reply.dropped_rounds < 20
    prompt, dropped = session.fit_prompt("你好", history, GREEDY.max_new_tokens)
    assert dropped == reply.dropped_rounds
    assert prompt == session.tokenizer.encode_prompt("你好", history[dropped:])
    assert len(prompt) + GREEDY.max_new_tokens <= session.engine.max_length


def test_a_long_prefix_makes_room_by_dropping_rounds(session, model) -> None:
    config = model.config
    long = torch.zeros(config.num_layers, 2, 128 + 200, config.multi_query_group_num, config.kv_channels)
    history = [("红色", "这件外套很百搭")] * 4
    reply = session.stream("你好", history, Prefix(long), GREEDY)
    list(reply)
    assert reply.dropped_rounds > 0 and reply.finish_reason == "length"


def test_a_reply_that_is_read_again_is_the_same(session) -> None:
    reply = session.stream("红色", sampling=GREEDY)
    said = list(reply)[-1]
    assert list(reply) == [said]
    assert reply.token_count <= GREEDY.max_new_tokens


@pytest.mark.parametrize("beams", [1, 2])
def test_chat_takes_a_strength_and_0_is_the_base(model, tokenizer, beams: int) -> None:
    options = {"do_sample": False, "max_length": 60, "num_beams": beams}
    prefix = random_prefix(model)
    base, half, full, none = (
        model.chat(tokenizer, "红色", **options, **given)[0]
        for given in ({}, {"prefix": prefix, "strength": 0.2}, {"prefix": prefix}, {"prefix": prefix, "strength": 0})
    )
    assert none == base
    assert len({base, half, full}) == 3


@pytest.mark.parametrize("query", ["", "  \n", "红" * 3000, "x" * 50_000_000], ids=["empty", "blank", "long", "50 MB"])
def test_questions_that_cannot_be_answered_are_refused_with_a_sentence(session, query: str) -> None:
    with pytest.raises(PromptError) as caught:
        session.stream(query, sampling=GREEDY)
    assert caught.value.localized("zh") != str(caught.value)


def test_a_reader_who_leaves_frees_the_slot(session) -> None:
    reply = session.stream("红色", sampling=SamplingParams(temperature=0, max_new_tokens=200))
    iterator = iter(reply)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert session.engine.stats().active == 0
    assert reply.finish_reason == "cancelled"


def test_probe_sees_the_effect_of_a_prefix(session, model) -> None:
    probe = session.probe(random_prefix(model))
    assert probe.has_effect
    assert probe.max_logit_change > 0.01


def test_probe_sees_that_a_prefix_has_none(checkpoint: Path, tokenizer) -> None:
    model = chatglm2.load_model(checkpoint, device="cpu")
    for layer in model.transformer.encoder.blocks():
        torch.nn.init.zeros_(layer.self_attention.dense.weight)
    engine = Engine(model, slots=1)
    assert not ChatSession(engine, tokenizer).probe(random_prefix(model)).has_effect
    engine.close()
