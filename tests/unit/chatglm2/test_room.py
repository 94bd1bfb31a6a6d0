"""Conversations take memory as they use it: idle ones give way, long ones wait or are cut, borrowers come first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from small_models import build_model, build_prefix

from chatglm2 import ChatGLMForConditionalGeneration, Engine, Request, SamplingParams
from chatglm2.errors import DeviceMemoryError
from chatglm2.serving import engine as engine_module
from chatglm2.serving import room
from chatglm2.serving.cache import SlotCache

PAGE = 8  # columns
NONSENSE = 1e4  # what lies where no memory was provided; finite, as a mask must be enough to leave it out


class PagedForTests(SlotCache):
    """A CPU's cache whose slots have memory only where it was provided: what has none holds nonsense."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.columns = [0] * self.slots
        self.most = 0
        for slot in range(self.slots):
            self._poison(slot)

    def _poison(self, slot: int) -> None:
        self.keys[:, slot, self.columns[slot] :] = NONSENSE
        self.values[:, slot, self.columns[slot] :] = NONSENSE

    def mapped_bytes(self, slot: int) -> int:
        return self.columns[slot] * self.column_bytes

    def missing_bytes(self, slot: int, columns: int) -> int:
        pages = -(-columns // PAGE) * PAGE
        return max(pages - self.columns[slot], 0) * self.column_bytes

    def provide(self, slot: int, columns: int) -> None:
        pages = max(-(-columns // PAGE) * PAGE, self.columns[slot])
        self.keys[:, slot, self.columns[slot] : pages] = 0
        self.values[:, slot, self.columns[slot] : pages] = 0
        self.columns[slot] = pages
        self.most = max(self.most, sum(self.columns))

    def withdraw(self, slot: int) -> None:
        self.columns[slot] = 0
        self._poison(slot)


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return build_model()


@pytest.fixture
def device_columns() -> list[int]:
    """How many columns the device has memory for; a test may change it."""
    return [96]


@pytest.fixture
def engine(
    model: ChatGLMForConditionalGeneration, device_columns: list[int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    caches: list[PagedForTests] = []

    def build(*arguments: object, paged: bool) -> PagedForTests:
        caches.append(PagedForTests(*arguments))
        return caches[-1]

    def free(device: torch.device) -> int:
        return (device_columns[0] - sum(caches[-1].columns)) * caches[-1].column_bytes

    monkeypatch.setattr(engine_module, "build_cache", build)
    monkeypatch.setattr(engine_module, "free_bytes", free)
    monkeypatch.setattr(engine_module, "WARM_UP_COLUMNS", 16)
    monkeypatch.setattr(room, "SPARE_BYTES", 0)
    monkeypatch.setattr(room, "LEAST_COLUMNS", 16)
    engine = Engine(model, slots=4)
    yield engine
    engine.close()


def ask(length: int, reply: int, first: int = 5, prefix: int = 0) -> Request:
    prompt = [(first + 3 * index) % 100 + 3 for index in range(length)]
    return Request(prompt, build_prefix(prefix) if prefix else None, SamplingParams(0.0, max_new_tokens=reply))


def alone(model: ChatGLMForConditionalGeneration, request: Request) -> list[int]:
    """What ``generate()`` answers, which knows no memory."""
    ids, tokens = torch.tensor([list(request.prompt_ids)]), request.sampling.max_new_tokens
    mask = torch.ones_like(ids)
    output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, prefix=request.prefix)
    return output[0, ids.shape[1] :].tolist()


def cache_of(engine: Engine) -> PagedForTests:
    assert isinstance(engine._cache, PagedForTests)
    return engine._cache


def test_an_engine_that_nobody_asks_holds_no_memory(engine: Engine) -> None:
    assert sum(cache_of(engine).columns) == 0


def test_a_conversation_takes_what_it_may_use_and_no_more(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    request = ask(10, 8, prefix=3)
    assert list(engine.submit(request)) == alone(model, request)
    assert sum(cache_of(engine).columns) == 24  # 21 in whole pages


def test_idle_conversations_give_way_longest_unused_first(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    for first in (1, 2, 3):
        list(engine.submit(ask(24, 8, first)))
    assert cache_of(engine).columns == [32, 32, 32, 0]
    request = ask(30, 20, 4)
    assert list(engine.submit(request)) == alone(model, request)
    assert cache_of(engine).columns == [0, 0, 32, 56]


def test_a_request_waits_for_a_running_one_and_loses_nothing(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    requests = [ask(30, 30, first) for first in (1, 2, 3)]  # 64 columns each, 96 are there
    streams = [engine.submit(request) for request in requests]
    for stream, request in zip(streams, requests, strict=True):
        assert list(stream) == alone(model, request)
    assert cache_of(engine).most <= 96


def test_a_reply_that_memory_cuts_says_that_its_length_ended_it(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    request = ask(60, 100)
    stream = engine.submit(request)
    assert list(stream) == alone(model, request)[:36]
    assert stream.finish_reason == "length"


def test_a_conversation_without_room_is_refused_by_a_sentence_and_others_go_on(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    with pytest.raises(DeviceMemoryError, match=r"has 100 tokens, .* memory for 96"):
        list(engine.submit(ask(100, 20)))
    request = ask(10, 5)
    assert list(engine.submit(request)) == alone(model, request)


def test_a_loan_takes_idle_conversations_and_leaves_running_ones(
    engine: Engine, model: ChatGLMForConditionalGeneration
) -> None:
    list(engine.submit(ask(24, 8, 1)))
    running = ask(20, 40, 2)
    stream = engine.submit(running)
    first = next(iter(stream))
    borrower = object()
    lent = engine.lend(96 * cache_of(engine).column_bytes, borrower)
    assert lent == 32 * cache_of(engine).column_bytes  # all but the running one's 64
    assert [first, *stream] == alone(model, running)
    # What is left for chat is enough for short conversations, and a longer one waits for the end of the loan.
    short = ask(8, 8, 3)
    assert list(engine.submit(short)) == alone(model, short)


def test_what_was_lent_comes_back(engine: Engine, model: ChatGLMForConditionalGeneration) -> None:
    borrower = object()
    engine.lend(96 * cache_of(engine).column_bytes, borrower)
    with pytest.raises(DeviceMemoryError):
        list(engine.submit(ask(60, 20)))
    engine.take_back(borrower)
    request = ask(60, 20)
    assert list(engine.submit(request)) == alone(model, request)


def test_a_card_that_somebody_else_fills_makes_requests_wait_not_break(
    engine: Engine, model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ask(20, 30, 1)
    stream = engine.submit(running)
    first = next(iter(stream))
    refusals = threading.Semaphore(3)

    def provide(slot: int, columns: int) -> None:
        if refusals.acquire(blocking=False):
            raise torch.OutOfMemoryError("filled")
        PagedForTests.provide(cache_of(engine), slot, columns)

    monkeypatch.setattr(engine._cache, "provide", provide)
    second = ask(8, 8, 2)
    later = engine.submit(second)
    assert [first, *stream] == alone(model, running)
    assert list(later) == alone(model, second)


def test_an_engine_says_whether_somebody_waits(engine: Engine) -> None:
    assert not engine.activity.is_busy
    stream = engine.submit(ask(10, 30))
    assert engine.activity.is_busy
    list(stream)
    assert not engine.activity.wait_for_change(True, 5.0)
