"""Pages and runs that share one card: whoever dies, nobody else does; on a GPU, and on a CPU where that is the same.

Each process imports torch, so that a GPU is asked for nearly all with one run; ``-k gpu`` runs those tests alone.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from answering_process import Answerer, build_engine, greedy
from tiny_checkpoint import write_examples, write_tiny_checkpoint

from training.runs import process
from training.runs.events import FailedEvent, MemoryEvent, last_event, step_history
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings

PATIENCE_SECONDS = 90.0
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
# What the GPU's kernels take.
SHAPE: dict[str, Any] = {"num_attention_heads": 32, "kv_channels": 64, "hidden_size": 256, "ffn_hidden_size": 400}
REPLY_TOKENS, LONG_REPLY_TOKENS = 64, 400

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes share weights on Linux only")


def settings_on(device: str, checkpoint: Path, rows: Path, **changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        **{"model_name_or_path": str(checkpoint), "train_file": str(rows), "device": device, "pre_seq_len": 4},
        **{"dtype": "float16" if device == "cuda" else "float32", "learning_rate": 1e-3},
        **{"max_steps": 1_000_000, "save_steps": 1_000_000, "per_device_train_batch_size": 4, "logging_steps": 2},
        **{"prefix_init": "random", "keep": 0.0},  # the base would answer general questions first
    }
    return TrainingSettings.from_dict(values | changes)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def step_of(run: Run) -> int:
    """The last step that it told of, whose loss is a number."""
    events = run.events()[0]
    failed = last_event(events, FailedEvent)
    assert failed is None, failed.en
    steps = step_history(events)
    assert all(math.isfinite(event.loss) for event in steps)
    return steps[-1].step if steps else 0


def goes_on(run: Run, steps: int = 6) -> None:
    """Wait until it has done some more steps."""
    before = step_of(run)
    wait_for(lambda: step_of(run) >= before + steps, f"{run.name} goes on after step {before}")


def maps_its_weights(run: Run) -> bool:
    return "come from another process" in run.log_file.read_text(encoding="utf-8")


@contextlib.contextmanager
def training(store: RunStore, settings: TrainingSettings, name: str) -> Iterator[Run]:
    run = store.create(settings, name)
    process.start(run)
    try:
        yield run
    finally:
        state = run.state()
        if state.pid is not None and process.is_alive(state):
            trainer = psutil.Process(state.pid)
            trainer.kill()
            wait_for(lambda: not process.is_alive(run.state()), "the trainer is gone")


def reply_while_it_is_killed(engine: Any, run: Run, which: int) -> list[int]:
    """A long reply, during which the trainer of the weights is killed with -9."""
    tokens = iter(engine.submit(greedy(LONG_REPLY_TOKENS, which)))
    reply = [next(tokens) for _ in range(3)]
    psutil.Process(run.state().pid).kill()
    reply += tokens
    assert len(reply) == LONG_REPLY_TOKENS
    return reply


@contextlib.contextmanager
def answering(checkpoint: Path, device: str) -> Iterator[Answerer]:
    answerer = Answerer(checkpoint, device)
    try:
        yield answerer
    finally:
        answerer.kill()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("rows") / "rows.json")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Each test's own, so that nobody holds its weights before."""
    return write_tiny_checkpoint(tmp_path / "model", seq_length=1024, **SHAPE)


@NEEDS_GPU
def test_on_a_gpu_a_second_process_is_ready_at_once_and_takes_next_to_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from benchmarks.one_card import second_process
    from chatglm2 import load_model

    shape: dict[str, Any] = {"num_layers": 12, "hidden_size": 1024, "ffn_hidden_size": 2816}
    large = write_tiny_checkpoint(tmp_path_factory.mktemp("large") / "model", **shape, kv_channels=64)
    model = load_model(large, device="cuda", shared=True)
    assert model.shared_weights.size > 200 * 2**20
    found = second_process(str(large), 0)
    assert found.get("mapped"), found
    assert found["seconds"] <= 1 and found["taken_mib"] <= 100, found


@NEEDS_GPU
def test_on_a_gpu_a_run_goes_on_when_the_holder_of_its_weights_is_killed(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    with answering(checkpoint, "cuda") as holder:
        assert not holder.hear()["mapped"]
        with training(RunStore(tmp_path / "output"), settings_on("cuda", checkpoint, rows), "run") as run:
            goes_on(run)
            assert maps_its_weights(run)
            holder.kill()  # with -9, some way into a step
            goes_on(run, 20)
            process.request_stop(run)
            wait_for(lambda: run.state().status is Status.STOPPED, "it stops as asked")
            taken = last_event(run.events()[0], MemoryEvent)
            assert taken is not None and 0 < taken.allocated <= taken.reserved


@NEEDS_GPU
def test_on_a_gpu_a_run_outlives_pages_and_a_full_card_and_a_reply_outlives_the_run(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    from benchmarks.one_card import small_card

    with training(RunStore(tmp_path / "output"), settings_on("cuda", checkpoint, rows, share="even"), "run") as run:
        goes_on(run)
        assert not maps_its_weights(run)
        replies = []
        for _ in range(3):  # a page is started, answers, and is killed
            with answering(checkpoint, "cuda") as page:
                assert page.hear()["mapped"]
                replies.append([page.ask(REPLY_TOKENS, which) for which in range(3)])
            goes_on(run)
        assert replies[0] == replies[1] == replies[2]
        assert all(len(reply) == REPLY_TOKENS for reply in replies[0])

        engine = build_engine(checkpoint, "cuda")
        try:
            assert engine.model.shared_weights.mapped
            with small_card(0.3):  # somebody else takes all but this
                assert list(engine.submit(greedy(REPLY_TOKENS, 0))) == replies[0][0]
                goes_on(run)
            assert list(engine.submit(greedy(REPLY_TOKENS, 1))) == replies[0][1]
            goes_on(run)
            assert reply_while_it_is_killed(engine, run, 2)[:REPLY_TOKENS] == replies[0][2]
            assert len(list(engine.submit(greedy(REPLY_TOKENS, 3)))) == REPLY_TOKENS
        finally:
            engine.close()
        wait_for(lambda: run.state().status is Status.INTERRUPTED, "the killed run reads as interrupted")


@NEEDS_GPU
def test_on_a_gpu_two_pages_and_two_runs_share_a_card(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    settings = settings_on("cuda", checkpoint, rows, max_steps=400)
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(answering(checkpoint, "cuda")) for _ in range(2)]
        stores = [RunStore(tmp_path / name) for name in ("one", "two")]  # one training at a time in each
        runs = [stack.enter_context(training(store, settings, "run")) for store in stores]
        assert {page.hear()["mapped"] for page in pages} <= {True, False}
        for run in runs:
            goes_on(run)
        assert sum(maps_its_weights(run) for run in runs) >= 1
        one, other = ([page.ask(REPLY_TOKENS, which) for which in range(3)] for page in pages)
        assert one == other and all(len(reply) == REPLY_TOKENS for reply in one)
        for run in runs:
            wait_for(lambda run=run: run.state().status is Status.FINISHED, "both runs end")  # type: ignore[misc]
        assert [len(page.ask(REPLY_TOKENS, 3)) for page in pages] == [REPLY_TOKENS, REPLY_TOKENS]


# The same on a CPU: one page and one run, of which each dies once


def test_on_a_cpu_a_run_outlives_its_page_and_a_reply_the_run(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(answering(checkpoint, "cpu"))
        assert not page.hear()["mapped"]
        settings = settings_on("cpu", checkpoint, rows, share="training-first")
        run = stack.enter_context(training(RunStore(tmp_path / "output"), settings, "run"))
        goes_on(run, 2)
        assert maps_its_weights(run)
        expected = page.ask(REPLY_TOKENS)
        page.kill()
        goes_on(run, 4)
        engine = build_engine(checkpoint, "cpu")
        try:
            assert engine.model.shared_weights.mapped
            assert reply_while_it_is_killed(engine, run, 0)[:REPLY_TOKENS] == expected
        finally:
            engine.close()
