"""The original's calls, with the options that its users give them: each works, or says what to use instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint
from transformers import AutoConfig, AutoModel, LogitsProcessor, LogitsProcessorList

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, ChatSession, Engine, Request, SamplingParams
from chatglm2.errors import ModelCallError
from chatglm2.model.prefix import TENSOR_NAMESPACE
from chatglm2.serving.original_calls import PastRounds

LENGTH = 6
GREEDY: dict[str, Any] = {"do_sample": False, "max_length": 60}
SAMPLING = SamplingParams(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(directory: Path) -> ChatGLMForConditionalGeneration:
    return chatglm2.load_model(directory, device="cpu")


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(directory)


@pytest.fixture(scope="module", params=[False, True], ids=["embedding", "projection"])
def trained(model, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """What the original's trainer leaves of a prefix."""
    place = tmp_path_factory.mktemp("checkpoint") / "pytorch_model.bin"
    config = AutoConfig.from_pretrained(model.config._name_or_path, pre_seq_len=LENGTH, prefix_projection=request.param)
    torch.manual_seed(3)
    state = chatglm2.PrefixEncoder(config).state_dict()
    torch.save({TENSOR_NAMESPACE + name: tensor * 2 for name, tensor in state.items()}, place)
    return place


def with_prefix_inside(directory: Path, trained: Path) -> ChatGLMForConditionalGeneration:
    """The original README's own lines."""
    state = torch.load(trained, weights_only=True)
    config = AutoConfig.from_pretrained(
        directory, trust_remote_code=True, pre_seq_len=LENGTH, prefix_projection=len(state) > 1
    )
    model = AutoModel.from_pretrained(directory, config=config, trust_remote_code=True)
    new_state = {name.removeprefix(TENSOR_NAMESPACE): tensor for name, tensor in state.items()}
    model.transformer.prefix_encoder.load_state_dict(new_state)
    return model.eval()


def test_a_prefix_inside_the_model_answers(directory: Path, trained: Path, model, tokenizer) -> None:
    own = with_prefix_inside(directory, trained)
    prefix = chatglm2.load_prefix(trained, model.config)
    expected = model.chat(tokenizer, "红色", prefix=prefix, **GREEDY)
    assert own.chat(tokenizer, "红色", **GREEDY) == expected
    assert list(own.stream_chat(tokenizer, "红色", **GREEDY))[-1] == expected
    assert own.chat(tokenizer, "红色", num_beams=2, **GREEDY) == model.chat(
        tokenizer, "红色", prefix=prefix, num_beams=2, **GREEDY
    )
    base = model.chat(tokenizer, "红色", **GREEDY)
    assert base != expected
    assert own.chat(tokenizer, "红色", prefix=None, **GREEDY) == base
    assert own.chat(tokenizer, "红色", prefix=None, num_beams=2, **GREEDY) == model.chat(
        tokenizer, "红色", num_beams=2, **GREEDY
    )


def test_a_prefix_inside_a_quantized_model_answers(directory: Path, trained: Path, tokenizer) -> None:
    own = with_prefix_inside(directory, trained).quantize(8)
    base = chatglm2.load_model(directory, device="cpu", dtype="float32", quantization_bit=8)
    prefix = chatglm2.load_prefix(trained, base.config)
    reply, _ = own.chat(tokenizer, "红色", **GREEDY)
    assert (
        reply == base.chat(tokenizer, "红色", prefix=prefix, **GREEDY)[0] != base.chat(tokenizer, "红色", **GREEDY)[0]
    )


def test_another_prefix_loaded_into_the_model_answers_next(directory: Path, trained: Path, tokenizer) -> None:
    own = with_prefix_inside(directory, trained)
    before, _ = own.chat(tokenizer, "红色", **GREEDY)
    engine = own.chat_engine._engine
    encoder = own.transformer.prefix_encoder
    encoder.load_state_dict({name: -tensor for name, tensor in encoder.state_dict().items()})
    assert own.chat(tokenizer, "红色", **GREEDY)[0] != before
    assert own.chat_engine._engine is engine  # nothing of the model itself has changed


def test_an_engine_answers_with_the_prefix_inside_its_model(directory: Path, trained: Path, model, tokenizer) -> None:
    own = with_prefix_inside(directory, trained)
    prompt = tokenizer.encode_prompt("红色")
    prefix = chatglm2.load_prefix(trained, model.config)
    engine = Engine(own, slots=3, max_length=60)
    left_out, base, named = engine.submit_all(
        [
            Request(prompt, sampling=SAMPLING),
            Request(prompt, None, sampling=SAMPLING),
            Request(prompt, prefix, sampling=SAMPLING),
        ]
    )
    assert list(left_out) == list(named) != list(base)
    session = ChatSession(engine, tokenizer)
    expected = list(session.stream("红色", prefix=prefix, sampling=SAMPLING))[-1]
    assert list(session.stream("红色", sampling=SAMPLING))[-1] == expected
    engine.close()


def test_the_originals_web_demo_asks_with_past_key_values(model, tokenizer) -> None:
    """Its loop, word for word: what was said comes back as history and as past, and both go in again."""
    history, past_key_values = [], None
    for query in ("你好", "红色"):
        steps = model.stream_chat(
            tokenizer, query, history, past_key_values=past_key_values, return_past_key_values=True, **GREEDY
        )
        for response, history, past_key_values in steps:  # noqa: B007 - as it is written there
            pass
    first, said = model.chat(tokenizer, "你好", **GREEDY)
    second, said = model.chat(tokenizer, "红色", history=said, **GREEDY)
    assert history == said == [("你好", first), ("红色", second)]
    assert past_key_values == PastRounds(tuple(said))


def test_what_past_key_values_hold_is_read_instead_of_the_history(model, tokenizer) -> None:
    _, said = model.chat(tokenizer, "你好", **GREEDY)
    past = PastRounds(tuple(said))
    *_, (reply, history) = model.stream_chat(tokenizer, "红色", [], past, **GREEDY)
    assert reply == model.chat(tokenizer, "红色", said, **GREEDY)[0]
    assert history == [("红色", reply)]


def test_another_kind_of_past_is_refused_with_what_to_use(model, tokenizer) -> None:
    with pytest.raises(ModelCallError, match="Pass the conversation as history"):
        next(model.stream_chat(tokenizer, "你好", past_key_values=((torch.zeros(1),),)))


def test_a_conversation_with_past_is_not_computed_again(model, tokenizer) -> None:
    options: dict[str, Any] = {"do_sample": False, "max_length": 250, "max_new_tokens": 40}
    *_, (_, _, past) = model.stream_chat(tokenizer, "红色外套很百搭" * 3, return_past_key_values=True, **options)
    before = model.chat_engine._engine.stats().reused_tokens
    list(model.stream_chat(tokenizer, "红色", [], past, **options))
    assert model.chat_engine._engine.stats().reused_tokens > before + 20


class Forbid(LogitsProcessor):
    """Lets no token but one be chosen."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        kept = torch.full_like(scores, -1e9)
        kept[:, self.allowed] = 0
        return kept


def test_logits_processors_choose(model, tokenizer) -> None:
    processors = LogitsProcessorList([Forbid(tokenizer.encode_text("红")[-1])])
    reply, history = model.chat(tokenizer, "你好", logits_processor=processors, max_new_tokens=5)
    assert reply == "红" * 5 and history == [("你好", reply)]
    steps = list(model.stream_chat(tokenizer, "你好", logits_processor=processors, max_new_tokens=3))
    assert [reply for reply, _ in steps] == ["红", "红红", "红红红", "红红红"]


def test_options_of_generate_compute_what_the_engine_does(model, tokenizer) -> None:
    plain = model.chat(tokenizer, "红色", **GREEDY)
    assert model.chat(tokenizer, "红色", min_length=1, **GREEDY) == plain
    assert model.chat(tokenizer, "红色", min_length=1, max_new_tokens=4, **GREEDY) == model.chat(
        tokenizer, "红色", max_new_tokens=4, **GREEDY
    )


def test_min_length_keeps_a_reply_from_ending(directory: Path, tokenizer) -> None:
    model = chatglm2.load_model(directory, device="cpu")
    ids = torch.tensor([tokenizer.encode_prompt("红色")])
    first = int(model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=1)[0, -1])
    model.config.eos_token_id = model.generation_config.eos_token_id = first
    assert model.chat(tokenizer, "红色", **GREEDY)[0] == ""
    assert model.chat(tokenizer, "红色", min_length=ids.shape[1] + 7, **GREEDY)[0] != ""


def test_top_p_of_0_is_greedy(model, tokenizer) -> None:
    assert model.chat(tokenizer, "红色", top_p=0, max_length=60) == model.chat(tokenizer, "红色", **GREEDY)


def test_arguments_stand_where_the_original_has_them(model, tokenizer) -> None:
    expected = model.chat(tokenizer, "红色", **GREEDY)
    assert model.chat(tokenizer, "红色", [], 60, 1, False, 0.8, 0.8, None) == expected
    assert list(model.stream_chat(tokenizer, "红色", [], None, 60, False, 0.8, 0.8, None, False))[-1] == expected


def test_stream_generate_grows_to_what_generate_makes(model, tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode_prompt("红色")] * 2)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 6}
    steps = list(model.stream_generate(ids, **options))
    assert [step.shape for step in steps] == [(2, ids.shape[1] + count) for count in range(1, len(steps) + 1)]
    assert torch.equal(steps[-1], model.generate(ids, **options))


def test_a_reader_who_leaves_ends_stream_generate(model, tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode_prompt("红色")])
    computed: list[int] = []

    def count(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        computed.append(ids.shape[1])
        return scores

    steps = model.stream_generate(ids, logits_processor=[count], do_sample=False, max_new_tokens=200)
    next(steps)
    steps.close()
    assert len(computed) < 200


def test_what_fails_in_stream_generate_is_raised_where_it_is_read(model, tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode_prompt("红色")])
    with pytest.raises(ValueError, match="top_q"):
        next(model.stream_generate(ids, top_q=1, max_new_tokens=2))
    with pytest.raises(ModelCallError, match="return_dict_in_generate"):
        next(model.stream_generate(ids, return_past_key_values=True))


def test_a_seed_that_cannot_be_kept_is_refused(model, tokenizer) -> None:
    with pytest.raises(ModelCallError, match="seed does not go with min_length") as caught:
        model.chat(tokenizer, "红色", seed=1, min_length=3)
    assert "torch.manual_seed()" in caught.value.localized("zh")
