"""The engine equals ``generate()``, keeps requests apart, and lets go of what is cancelled."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_models import build_model, build_prefix

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, Engine, Prefix, Request, SamplingParams
from chatglm2.errors import DeviceMemoryError, EngineError, PromptError
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.engine import PREFIX_ROOM
from chatglm2.serving.runners.base import DecodeBatch
from chatglm2.serving.runners.cpu import CpuRunner
from chatglm2.serving.runners.module import ModuleRunner

GREEDY = SamplingParams(temperature=0, max_new_tokens=24)
PREFIXES = (None, build_prefix(3), build_prefix(9, seed=2))
PROMPTS = ([5, 6, 7], list(range(20, 51)), [9] * 12)


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return build_model()


@pytest.fixture(scope="module")
def engine(model: ChatGLMForConditionalGeneration) -> Iterator[Engine]:
    engine = Engine(model, slots=4)
    yield engine
    engine.close()


def generate(
    model: ChatGLMForConditionalGeneration, prompt: list[int], prefix: Prefix | None, tokens: int
) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, prefix=prefix
    )
    return output[0, len(prompt) :].tolist()


def wait_until(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


def test_equals_generate_for_mixed_prefixes_and_lengths(model, engine) -> None:
    cases = [
        (prompt, prefix, 10 + 3 * index) for index, (prompt, prefix) in enumerate(itertools.product(PROMPTS, PREFIXES))
    ]
    streams = [
        engine.submit(Request(prompt, prefix, SamplingParams(temperature=0, max_new_tokens=tokens)))
        for prompt, prefix, tokens in cases
    ]
    for stream, (prompt, prefix, tokens) in zip(streams, cases, strict=True):
        assert list(stream) == generate(model, prompt, prefix, tokens)
        assert stream.finish_reason == "length"


def test_base_answer_beside_a_tuned_one_is_the_base_answer_alone(engine) -> None:
    alone = list(engine.submit(Request(PROMPTS[1], None, GREEDY)))
    base = engine.submit(Request(PROMPTS[1], None, GREEDY))
    tuned = engine.submit(Request(PROMPTS[1], PREFIXES[2], GREEDY))
    assert list(base) == alone
    assert list(tuned) != alone


def test_a_slot_that_held_a_prefix_serves_the_base_again(model) -> None:
    engine = Engine(model, slots=1)
    list(engine.submit(Request(PROMPTS[0], PREFIXES[2], GREEDY)))
    assert list(engine.submit(Request(PROMPTS[0], None, GREEDY))) == generate(model, PROMPTS[0], None, 24)
    engine.close()


def test_same_seed_gives_the_same_answer_whoever_shares_the_batch(engine) -> None:
    sampling = SamplingParams(temperature=1.0, top_p=0.95, repetition_penalty=1.2, max_new_tokens=40)
    request = Request(PROMPTS[0], PREFIXES[1], sampling, seed=7)
    alone = list(engine.submit(request))
    crowd = [Request(PROMPTS[1], PREFIXES[index % 3], sampling, seed=index) for index in range(3)]
    streams = [engine.submit(other) for other in (*crowd[:2], request, crowd[2])]
    answers = [list(stream) for stream in streams]
    assert answers[2] == alone
    assert list(engine.submit(Request(PROMPTS[0], PREFIXES[1], sampling, seed=8))) != alone


def test_rows_survive_the_leaving_of_others(model, engine) -> None:
    """Rows move when one before them ends: their answers must not change."""
    lengths = (3, 30, 9, 25)
    streams = [
        engine.submit(Request(PROMPTS[index % 3], PREFIXES[index % 3], SamplingParams(0, max_new_tokens=length)))
        for index, length in enumerate(lengths)
    ]
    for index, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        assert list(stream) == generate(model, PROMPTS[index % 3], PREFIXES[index % 3], length)


def test_more_requests_than_slots_wait_in_order(model) -> None:
    engine = Engine(model, slots=1)
    finished: list[int] = []
    streams = [engine.submit(Request(PROMPTS[0], None, GREEDY)) for _ in range(4)]

    def consume(index: int) -> None:
        list(streams[index])
        finished.append(index)

    readers = [threading.Thread(target=consume, args=(index,)) for index in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert finished == [0, 1, 2, 3]
    engine.close()


def test_cancel_frees_the_slot_and_the_queue(model) -> None:
    engine = Engine(model, slots=1)
    long = SamplingParams(temperature=0, max_new_tokens=200)
    running, waiting = (engine.submit(Request(PROMPTS[0], None, long)) for _ in range(2))
    iterator = iter(running)
    next(iterator)
    assert engine.stats().active == 1 and engine.stats().waiting == 1
    last = engine.submit(Request(PROMPTS[0], None, long))
    assert [engine.place_in_line(stream) for stream in (running, waiting, last)] == [0, 1, 2]
    waiting.cancel()
    assert [engine.place_in_line(stream) for stream in (running, waiting, last)] == [0, 0, 1]
    last.cancel()
    running.cancel()
    assert engine.stats().active == 0 and engine.stats().waiting == 0
    assert len(list(iterator)) < 200
    assert list(waiting) == []
    assert running.finish_reason == waiting.finish_reason == "cancelled"
    assert list(engine.submit(Request(PROMPTS[0], None, GREEDY))) == generate(model, PROMPTS[0], None, 24)
    engine.close()


def test_the_next_turn_computes_only_its_new_text(model) -> None:
    engine = Engine(model, slots=2)
    first = list(range(20, 70))
    for prefix in (None, PREFIXES[1]):
        reply = list(engine.submit(Request(first, prefix, GREEDY)))
        before = engine.stats().reused_tokens
        longer = [*first, *reply, 3, 4, 5]
        assert list(engine.submit(Request(longer, prefix, GREEDY))) == generate(model, longer, prefix, 24)
        # The reply's last token was handed out, but never fed.
        assert engine.stats().reused_tokens - before == len(first) + len(reply) - 1
    engine.close()


def test_text_of_another_prefix_is_not_reused(model) -> None:
    engine = Engine(model, slots=1)
    prompt = list(range(20, 70))
    for prefix in (None, PREFIXES[1], PREFIXES[2], None):
        assert list(engine.submit(Request(prompt, prefix, GREEDY))) == generate(model, prompt, prefix, 24)
    assert engine.stats().reused_tokens == 0
    engine.close()


def test_the_slot_unused_for_longest_is_given_up(model) -> None:
    engine = Engine(model, slots=2)
    old, kept, new = ([start] * 40 for start in (5, 6, 7))
    for prompt in (old, kept, new):
        list(engine.submit(Request(prompt, None, GREEDY)))
    assert engine.stats().reused_tokens == 0
    list(engine.submit(Request(kept, None, GREEDY)))
    assert engine.stats().reused_tokens == len(kept) - 1
    engine.close()


def test_a_long_prompt_does_not_stop_the_others(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatglm2.serving.engine.PREFILL_CHUNK_SHARED", 4)
    engine = Engine(model, slots=2)
    running = engine.submit(Request(PROMPTS[0], None, SamplingParams(temperature=0, max_new_tokens=200)))
    next(iter(running))
    late = engine.submit(Request(list(range(100)), None, SamplingParams(temperature=0, max_new_tokens=1)))
    list(late)
    assert running._tokens.qsize() >= 100 // 4 - 5
    running.cancel()
    engine.close()


def test_the_end_token_stops_and_is_not_handed_out(model) -> None:
    answer = generate(model, PROMPTS[0], None, 24)
    twin = build_model()
    twin.config.eos_token_id = answer[10]
    engine = Engine(twin, slots=2)
    stream = engine.submit(Request(PROMPTS[0], None, GREEDY))
    assert list(stream) == answer[: answer.index(answer[10])]
    assert stream.finish_reason == "stop"
    engine.close()


def test_a_reply_ends_where_the_context_ends(model) -> None:
    engine = Engine(model, slots=2, max_length=40)
    stream = engine.submit(Request(list(range(30)), PREFIXES[2], SamplingParams(temperature=0, max_new_tokens=100)))
    assert len(list(stream)) == 10
    assert stream.finish_reason == "length"
    engine.close()


def test_a_prefix_longer_than_its_room_takes_the_rest_from_the_text(model) -> None:
    engine = Engine(model, slots=1, max_length=40)
    long = build_prefix(PREFIX_ROOM + 12)
    stream = engine.submit(Request(list(range(20)), long, SamplingParams(temperature=0, max_new_tokens=100)))
    assert len(list(stream)) == 40 - 12 - 20
    assert stream.finish_reason == "length"
    with pytest.raises(PromptError, match="at most 27 fit"):
        engine.submit(Request(list(range(28)), long, GREEDY))
    engine.close()


def test_a_prompt_in_chunks_equals_a_prompt_in_one_go(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatglm2.serving.engine.PREFILL_CHUNK_ALONE", 8)
    monkeypatch.setattr("chatglm2.serving.engine.PREFILL_CHUNK_SHARED", 6)
    engine = Engine(model, slots=4)
    streams = [
        engine.submit(Request(prompt, prefix, GREEDY)) for prompt, prefix in itertools.product(PROMPTS, PREFIXES)
    ]
    for stream, (prompt, prefix) in zip(streams, itertools.product(PROMPTS, PREFIXES), strict=True):
        assert list(stream) == generate(model, prompt, prefix, 24)
    engine.close()


@pytest.mark.parametrize("prompt", [[], list(range(64)) * 4], ids=["empty", "too long"])
def test_prompts_that_cannot_be_answered_are_refused(engine, prompt: list[int]) -> None:
    with pytest.raises(PromptError):
        engine.submit(Request(prompt, None, GREEDY))


def test_broken_numbers_end_one_row_with_a_sentence_and_leave_the_others(model, engine) -> None:
    broken = Prefix(torch.full_like(PREFIXES[1].key_values, torch.nan))
    bad = engine.submit(Request(PROMPTS[0], broken, GREEDY))
    good = engine.submit(Request(PROMPTS[0], None, GREEDY))
    with pytest.raises(EngineError, match="not a number"):
        list(bad)
    assert list(good) == generate(model, PROMPTS[0], None, 24)
    after = [engine.submit(Request(prompt, None, GREEDY)) for prompt in (PROMPTS[0], PROMPTS[1])]
    for stream, prompt in zip(after, PROMPTS, strict=False):
        assert list(stream) == generate(model, prompt, None, 24), "the broken prefix is left in its slot"


def test_what_is_not_a_number_is_gone_from_its_slot_and_nothing_from_another(model) -> None:
    engine = Engine(model, slots=2)
    broken = Request(list(range(60, 120)), Prefix(torch.full_like(PREFIXES[2].key_values, torch.nan)), GREEDY)
    # The short row gets the broken one's slot and is decoded beside the long one: through the mask it looks at all that
    # lay there, and 0 * NaN is NaN.
    long, short = (
        Request([9] * 90, None, SamplingParams(temperature=0, max_new_tokens=60)),
        Request([5, 6, 7], None, GREEDY),
    )
    good, bad, after = engine.submit_all([long, broken, short])
    with pytest.raises(EngineError, match="not a number"):
        list(bad)
    assert list(after) == generate(model, [5, 6, 7], None, 24), "what is not a number is left in its slot"
    assert list(good) == generate(model, [9] * 90, None, 60), "the slot of another request was erased"
    for _ in range(2):  # none of its text counts as computed
        with pytest.raises(EngineError, match="not a number"):
            list(engine.submit(broken))
    engine.close()


def test_a_failing_step_reaches_the_reader_and_the_engine_lives_on(model, engine, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(engine._runner, "decode", fail)
        stream = engine.submit(Request(PROMPTS[0], None, GREEDY))
        with pytest.raises(DeviceMemoryError, match="ran out of memory"):
            list(stream)
    assert list(engine.submit(Request(PROMPTS[0], None, GREEDY))) == generate(model, PROMPTS[0], None, 24)


def test_close_ends_running_requests_and_refuses_new_ones(model) -> None:
    engine = Engine(model, slots=1)
    stream = engine.submit(Request(PROMPTS[0], None, SamplingParams(temperature=0, max_new_tokens=200)))
    next(iter(stream))
    engine.close()
    list(stream)
    assert stream.finish_reason == "cancelled"
    with pytest.raises(EngineError):
        engine.submit(Request(PROMPTS[0], None, GREEDY))


@torch.inference_mode()
def test_both_runners_give_the_same_logits(model) -> None:
    cache = SlotCache(model.config, model.dtype, model.device, slots=5, capacity=64)
    cache.keys.normal_(generator=torch.Generator().manual_seed(0))
    cache.values.normal_(generator=torch.Generator().manual_seed(1))
    for slots, columns in (([3], [17]), ([0, 1], [17, 17]), ([0, 2, 4], [4, 17, 30])):
        ids = torch.tensor(columns) + 40
        batch = DecodeBatch(ids, slots, [column - 3 for column in columns], columns)
        expected = ModuleRunner(model, cache).decode(batch)
        torch.testing.assert_close(CpuRunner(model, cache, 256).decode(batch), expected, atol=1e-4, rtol=1e-5)


def test_steps_started_ahead_change_no_answer(model) -> None:
    """What a GPU does, on a CPU: the next step is fed tokens that the host has not read."""
    engine = Engine(model, slots=3)
    engine._runner.runs_ahead = True
    twice = [(prompt, prefix) for prompt, prefix in itertools.product(PROMPTS, PREFIXES)] * 2
    streams = [
        engine.submit(Request(prompt, prefix, SamplingParams(temperature=0, max_new_tokens=3 + index)))
        for index, (prompt, prefix) in enumerate(twice)
    ]
    for index, (stream, (prompt, prefix)) in enumerate(zip(streams, twice, strict=True)):
        assert list(stream) == generate(model, prompt, prefix, 3 + index)
    engine.close()


def test_a_step_started_ahead_leaves_the_slot_reusable(model) -> None:
    answer = generate(model, PROMPTS[1], None, 24)
    twin = build_model()
    twin.config.eos_token_id = next(token for token in answer[8:] if answer.index(token) >= 8)
    engine = Engine(twin, slots=1)
    engine._runner.runs_ahead = True
    reply = list(engine.submit(Request(PROMPTS[1], None, GREEDY)))
    assert 0 < len(reply) < 24
    longer = [*PROMPTS[1], *reply, 3, 4]
    expected = generate(twin, longer, None, 5)
    assert list(engine.submit(Request(longer, None, SamplingParams(temperature=0, max_new_tokens=5)))) == expected
    assert engine.stats().reused_tokens >= len(PROMPTS[1])
    engine.close()


def test_tokens_arrive_while_the_reply_is_computed(engine) -> None:
    stream = engine.submit(Request(PROMPTS[0], None, SamplingParams(temperature=0, max_new_tokens=150)))
    next(iter(stream))
    assert stream.finish_reason is None
    stream.cancel()


def test_demo_model_engine_equals_generate(demo_model_dir: Path) -> None:
    model = chatglm2.load_model(demo_model_dir, dtype="fp32", device="cpu")
    tokenizer = chatglm2.load_tokenizer(demo_model_dir)
    engine = Engine(model, slots=2)
    prompts = [tokenizer.encode_prompt(text) for text in ("你好", "类型#裙*颜色#红色*风格#复古")]
    streams = [engine.submit(Request(prompt, None, GREEDY)) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        expected = generate(model, prompt, None, 24)
        assert list(stream) == [token for token in expected if token != model.config.eos_token_id]
    engine.close()


def test_a_program_may_end_in_the_middle_of_an_answer() -> None:
    program = (
        "from small_models import build_model; from chatglm2 import Engine, Request, SamplingParams\n"
        "stream = Engine(build_model()).submit(Request([5, 6, 7], sampling=SamplingParams(max_new_tokens=200)))\n"
        "next(iter(stream))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
