"""Whatever is asked for and whatever breaks: every stream ends with a reason, and nobody else's answer changes."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from small_models import build_model, build_prefix

from chatglm2 import ChatGLMForConditionalGeneration, Engine, Prefix, Request, SamplingParams
from chatglm2.errors import ChatGLMError, DeviceMemoryError, EngineError, PromptError, RequestError
from chatglm2.serving import engine as engine_module
from chatglm2.serving.stream import Stream
from chatglm2.serving.worker import compute_with

SECONDS = 20.0
SHORT = SamplingParams(temperature=0, max_new_tokens=6)
LONG = SamplingParams(temperature=0, max_new_tokens=200)
PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return build_model()


@pytest.fixture
def engine(model: ChatGLMForConditionalGeneration) -> Iterator[Engine]:
    engine = Engine(model, slots=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(model: ChatGLMForConditionalGeneration) -> list[int]:
    """What the model says to `PROMPT`."""
    engine = Engine(model, slots=1)
    answer = list(engine.submit(Request(PROMPT, None, SHORT)))
    engine.close()
    return answer


def read(stream: Stream) -> list[int]:
    """All of a stream, or a failed test where it does not end."""
    future: Future[list[int]] = Future()

    def consume() -> None:
        try:
            future.set_result(list(stream))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=consume, daemon=True).start()
    return future.result(SECONDS)


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with …")


# What is asked for


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "warm"),
        ("temperature", None),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("top_k", 2**70),
        ("top_k", 1.5),
        ("top_k", True),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("nan")),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2**70),
    ],
)
def test_a_number_out_of_its_range_is_a_sentence_when_it_is_said(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert name in caught.value.zh and caught.value.zh != caught.value.en


def test_whole_numbers_are_taken_in_every_form(engine: Engine, expected: list[int]) -> None:
    sampling = SamplingParams(0, top_k=np.int64(50), max_new_tokens=6.0)  # type: ignore[arg-type]
    assert read(engine.submit(Request(np.array(PROMPT), None, sampling, np.int32(3)))) == expected  # type: ignore[arg-type]
    assert read(engine.submit(Request(torch.tensor(PROMPT), None, SHORT))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, 2**64, "7", None, float("nan")])
def test_a_seed_that_no_generator_takes_is_a_sentence_when_it_is_said(seed: Any) -> None:
    with pytest.raises(RequestError, match="seed"):
        Request(PROMPT, seed=seed)


def test_the_largest_seed_is_one(engine: Engine) -> None:
    assert read(engine.submit(Request(PROMPT, None, SamplingParams(max_new_tokens=2), seed=2**64 - 1)))


@pytest.mark.parametrize("ids", [["a"], [1.5], [None], 7], ids=str)
def test_a_prompt_that_is_no_list_of_ids_is_a_sentence(ids: Any) -> None:
    with pytest.raises(RequestError, match="token ids"):
        Request(ids)


@pytest.mark.parametrize("stray", [128, -1, 10**20])
def test_an_id_beyond_the_vocabulary_is_refused(engine: Engine, stray: int) -> None:
    with pytest.raises(PromptError, match=str(stray)):
        engine.submit(Request([5, stray, 7], None, SHORT))


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 2, 3, 2, 16),
        torch.zeros(3, 2, 3, 2, 8),
        torch.zeros(3, 2, 3, 2),
        torch.zeros(3, 2, 3, 2, 16, dtype=torch.long),
    ],
    ids=lambda values: f"{list(values.shape)} {values.dtype}",
)
def test_a_misshapen_prefix_is_refused_and_running_replies_go_on(
    engine: Engine, expected: list[int], values: torch.Tensor
) -> None:
    running = engine.submit(Request(PROMPT, None, SHORT))
    with pytest.raises(RequestError, match=r"\[3, 2, P, 2, 16\]"):
        engine.submit(Request(PROMPT, Prefix(values), SHORT))
    assert read(running) == expected


def test_a_prefix_that_leaves_no_room_is_said_to(model: ChatGLMForConditionalGeneration) -> None:
    engine = Engine(model, slots=1, max_length=40)
    with pytest.raises(RequestError, match="leaves no room"):
        engine.submit(Request(PROMPT, build_prefix(185), SHORT))
    engine.close()


def test_of_several_requests_none_is_computed_if_one_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptError):
        engine.submit_all([Request(PROMPT, None, LONG), Request([], None, SHORT)])
    assert engine.stats().waiting + engine.stats().active == 0


# What breaks


def test_a_request_that_cannot_be_let_in_ends_alone_and_leaves_its_slot(
    engine: Engine, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(engine._sampling, "enter", fail)
        for _ in range(3):  # more than there are slots
            with pytest.raises(EngineError, match="illegal memory access"):
                read(engine.submit(Request(PROMPT, None, SHORT)))
    assert [read(stream) for stream in engine.submit_all([Request(PROMPT, None, SHORT)] * 2)] == [expected] * 2


def broken_device(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._runner, "decode", fail)
    monkeypatch.setattr(engine._cache, "erase", fail)


def test_where_clearing_up_fails_too_everybody_hears_why_and_nobody_hangs(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ChatGLMError] = []
    engine = Engine(model, slots=1, on_failure=told.append)
    broken_device(engine, monkeypatch)
    streams = engine.submit_all([Request(PROMPT, None, SHORT)] * 3)
    for stream in streams:
        with pytest.raises(EngineError, match="illegal memory access"):
            read(stream)
        assert stream.finish_reason == "error"
    with pytest.raises(EngineError, match="illegal memory access"):
        engine.submit(Request(PROMPT, None, SHORT))
    assert engine.close(SECONDS)
    assert told == [engine.failure] and "Compile with" not in told[0].en


def test_an_engine_whose_steps_go_on_breaking_gives_itself_up(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, slots=1)
    monkeypatch.setattr(engine._runner, "prefill", fail)
    for _ in range(engine_module.MOST_FAILED_TURNS):
        assert engine.failure is None
        with pytest.raises(EngineError):
            read(engine.submit(Request(PROMPT, None, SHORT)))
    engine._worker.join(SECONDS)
    assert engine.failure is not None and engine.is_closed


def test_running_out_of_memory_again_and_again_ends_requests_only(
    engine: Engine, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(engine._runner, "prefill", exhaust)
        for _ in range(engine_module.MOST_FAILED_TURNS + 1):
            with pytest.raises(DeviceMemoryError):
                read(engine.submit(Request(PROMPT, None, SHORT)))
    assert read(engine.submit(Request(PROMPT, None, SHORT))) == expected


def test_an_engine_that_ends_lets_nobody_wait_for_memory(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, slots=1)
    broken_device(engine, monkeypatch)
    stream = engine.submit(Request(PROMPT, None, SHORT))
    with pytest.raises(EngineError):
        read(stream)
        engine.lend(1, object())
    engine.close()


def test_a_loan_that_nobody_waits_for_any_more_is_not_made(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, may_go = threading.Event(), threading.Event()
    prefill = engine._runner.prefill

    def wait(*arguments: Any) -> Any:
        entered.set()
        may_go.wait(SECONDS)
        return prefill(*arguments)

    monkeypatch.setattr(engine._runner, "prefill", wait)
    monkeypatch.setattr(engine_module, "LOAN_SECONDS", 0.01)
    stream = engine.submit(Request(PROMPT, None, SHORT))
    entered.wait(SECONDS)
    with pytest.raises(TimeoutError):
        engine.lend(10, object())
    may_go.set()
    read(stream)
    assert engine._room._limit is None


@pytest.mark.parametrize("ahead", [False, True], ids=["", "steps ahead"])
def test_broken_numbers_of_a_cancelled_request_reach_nobody(
    model: ChatGLMForConditionalGeneration, expected: list[int], monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """Cancelled before its first token, so that nobody has read that its numbers are broken."""
    engine = Engine(model, slots=1)
    engine._runner.runs_ahead = ahead
    broken = Request(list(range(60)), Prefix(torch.full((3, 2, 9, 2, 16), torch.nan)), SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(engine._runner, "prefill", cancelling(engine, engine._runner.prefill))
        patched.setattr(engine_module, "PREFILL_CHUNK_ALONE", 20)  # its first token is three turns away
        assert read(engine.submit(broken)) == []
    assert read(engine.submit(Request(PROMPT, None, SHORT))) == expected
    assert torch.isfinite(engine._cache.keys).all() and torch.isfinite(engine._cache.values).all()
    engine.close()


def test_a_cancelled_prompt_keeps_what_was_sound_before(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, slots=1)
    first = list(range(20, 70))
    reply = read(engine.submit(Request(first, None, SHORT)))
    monkeypatch.setattr(engine._runner, "prefill", cancelling(engine, engine._runner.prefill))
    monkeypatch.setattr(engine_module, "PREFILL_CHUNK_ALONE", 20)
    assert read(engine.submit(Request([*first, *reply, *range(60)], None, SHORT))) == []
    monkeypatch.undo()
    before = engine.stats().reused_tokens
    read(engine.submit(Request([*first, *reply, 3], None, SHORT)))
    assert engine.stats().reused_tokens - before == len(first) + len(reply) - 1
    engine.close()


def cancelling(engine: Engine, prefill: Callable[..., Any]) -> Callable[..., Any]:
    """``prefill``, during which every running request is cancelled."""

    def run(*arguments: Any) -> Any:
        logits = prefill(*arguments)
        for row in engine._rows:
            row.stream.cancel()
        return logits

    return run


# How it ends


def test_a_stream_that_was_read_ends_again_for_the_next_reader(engine: Engine, expected: list[int]) -> None:
    stream = engine.submit(Request(PROMPT, None, SHORT))
    assert read(stream) == expected
    assert read(stream) == []
    failed = engine.submit(Request(PROMPT, Prefix(torch.full((3, 2, 9, 2, 16), torch.nan)), SHORT))
    errors = []
    for _ in range(2):
        with pytest.raises(EngineError, match="not a number") as caught:
            read(failed)
        errors.append(caught.value)
    assert errors[0] is not errors[1], "an error that is raised again grows"


def test_closing_ends_streams_before_the_step_that_is_computed(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, slots=1)
    entered, may_go = threading.Event(), threading.Event()

    def wait(*_: object) -> Any:
        entered.set()
        may_go.wait(SECONDS)
        raise RuntimeError("too late")

    monkeypatch.setattr(engine._runner, "prefill", wait)
    streams = engine.submit_all([Request(PROMPT, None, SHORT)] * 2)
    entered.wait(SECONDS)
    assert not engine.close(timeout=0.01)
    assert [read(stream) for stream in streams] == [[], []]
    may_go.set()
    assert engine.close(SECONDS)
    assert {stream.finish_reason for stream in streams} == {"cancelled"} and engine.failure is None


def test_an_engine_that_nobody_holds_ends_its_thread_and_frees_its_model() -> None:
    engine = Engine(build_model(), slots=1)
    read(engine.submit(Request(PROMPT, None, SHORT)))
    worker, weights = engine._worker, weakref.ref(engine.model.transformer.output_layer.weight)
    del engine
    worker.join(SECONDS)
    gc.collect()
    assert not worker.is_alive() and weights() is None


def test_a_stream_keeps_its_engine_going(expected: list[int]) -> None:
    engine = Engine(build_model(), slots=1)
    worker, stream = engine._worker, engine.submit(Request(PROMPT, None, SHORT))
    del engine
    assert read(stream) == expected
    del stream
    gc.collect()
    worker.join(SECONDS)
    assert not worker.is_alive()


def test_one_engines_thread_count_is_not_the_next_ones() -> None:
    def count_of_new_thread() -> int:
        future: Future[int] = Future()
        threading.Thread(target=lambda: future.set_result(torch.get_num_threads())).start()
        return future.result(SECONDS)

    before = count_of_new_thread()
    inside: list[int] = []

    def compute() -> None:
        compute_with(before + 1)
        inside.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert inside == [before + 1] and count_of_new_thread() == before


def test_everything_is_computed_on_the_models_device(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--device cuda:1``: what is made or launched without naming a device must not land on the first one."""
    current = threading.local()

    class On:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.device = self.device

        def __exit__(self, *_: object) -> None:
            current.device = None

    seen: list[Any] = []
    build = engine_module.build_runner

    def build_and_watch(*arguments: Any) -> Any:
        runner = build(*arguments)
        seen.append(getattr(current, "device", None))
        prefill = runner.prefill
        runner.prefill = lambda *rest: seen.append(getattr(current, "device", None)) or prefill(*rest)  # type: ignore[method-assign]
        return runner

    monkeypatch.setattr(engine_module, "computing_on", On)
    monkeypatch.setattr("chatglm2.serving.worker.computing_on", On)
    monkeypatch.setattr(engine_module, "build_runner", build_and_watch)
    engine = Engine(model, slots=1)
    read(engine.submit(Request(PROMPT, None, SHORT)))
    engine.close()
    assert seen == [model.device, model.device]
