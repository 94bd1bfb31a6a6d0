"""The engine behind ``model.chat()`` follows its model's weights, cuts nobody off, and goes with its model."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import PromptError, RequestError
from chatglm2.serving.own_engine import own_engine

Model = ChatGLMForConditionalGeneration


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(checkpoint)


@pytest.fixture
def model(checkpoint: Path) -> Model:
    return chatglm2.load_model(checkpoint, device="cpu")


def reply(model: Model, tokenizer: ChatGLMTokenizer, max_length: int = 60) -> str:
    return str(model.chat(tokenizer, "红色", max_length=max_length, do_sample=False)[0])


def generated(model: Model, tokenizer: ChatGLMTokenizer) -> str:
    """The same reply, without an engine."""
    ids = torch.tensor([tokenizer.encode_prompt("红色")])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=60)
    return tokenizer.decode_ids(output[0, ids.shape[1] :].tolist()).strip()


def write_over(model: Model) -> None:
    with torch.no_grad():
        model.transformer.embedding.word_embeddings.weight.mul_(-3)


@pytest.mark.parametrize(
    "change",
    [lambda model: model.quantize(4), lambda model: model.to(torch.bfloat16), write_over],
    ids=["quantized", "moved", "written over"],
)
def test_replies_follow_the_weights(
    model: Model, tokenizer: ChatGLMTokenizer, change: Callable[[Model], object]
) -> None:
    before = reply(model, tokenizer)
    assert before == generated(model, tokenizer)
    change(model)
    assert reply(model, tokenizer) == generated(model, tokenizer) != before


def test_weights_that_stay_keep_their_engine(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    reply(model, tokenizer, 80)
    engine = own_engine(model, 80)
    reply(model, tokenizer, 60)
    assert own_engine(model, 60) is engine


def test_a_chat_of_another_length_cuts_nobody_off(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    whole = reply(model, tokenizer, 60)
    first = model.stream_chat(tokenizer, "红色", max_length=60, do_sample=False)
    next(first)
    assert len(reply(model, tokenizer, 120)) > len(whole)
    assert [text for text, _ in first][-1] == whole


def test_every_chat_has_its_own_length(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    """Rounds that do not fit into what was asked for are dropped, though the engine has room for them."""
    history = [("红色", "这件外套很百搭" * 2)] * 6
    options = {"history": history, "max_length": 100, "do_sample": False}
    alone, _ = model.chat(tokenizer, "你好", **options)
    reply(model, tokenizer, 250)
    assert model.chat(tokenizer, "你好", **options)[0] == alone
    with pytest.raises(PromptError, match="at most 9 fit"):
        reply(model, tokenizer, 10)


def test_a_model_that_nobody_holds_is_freed_with_its_engine(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    gc.disable()  # by counting alone: weights are too large to wait for the collector
    try:
        twin = copy.deepcopy(model)
        reply(twin, tokenizer)
        weight, worker = weakref.ref(twin.transformer.output_layer.weight), own_engine(twin, 60)._worker
        del twin
        worker.join(20)
        assert weight() is None and not worker.is_alive()
    finally:
        gc.enable()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_that_chatted_chats_for_itself(
    model: Model, tokenizer: ChatGLMTokenizer, duplicate: Callable[[Model], Model]
) -> None:
    said = reply(model, tokenizer)
    twin = duplicate(model)
    write_over(model)
    assert reply(twin, tokenizer) == said != reply(model, tokenizer)
    assert own_engine(twin, 60) is not own_engine(model, 60)


def test_a_chat_whose_engine_broke_gets_a_new_one(
    model: Model, tokenizer: ChatGLMTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = reply(model, tokenizer)
    own_engine(model, 60).close()
    assert reply(model, tokenizer) == said


def test_a_long_prefix_drops_rounds_rather_than_the_question(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    prefix = Prefix(torch.zeros(2, 2, 128 + 150, 2, 8))
    history = [("红色", "这件外套很百搭" * 2)] * 6
    text, longer = model.chat(tokenizer, "你好", history=history, max_length=200, prefix=prefix, do_sample=False)
    assert text and len(longer) == 7


def test_a_prefix_that_leaves_no_room_is_said_to(model: Model, tokenizer: ChatGLMTokenizer) -> None:
    with pytest.raises(RequestError, match="leaves no room"):
        model.chat(tokenizer, "你好", max_length=60, prefix=Prefix(torch.zeros(2, 2, 300, 2, 8)))
