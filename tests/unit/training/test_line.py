"""Runs wait in line on disk: in order, one at a time, and nothing that happens to one of them stops the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_checkpoint import tiny_settings

from chatglm2.errors import RunError
from training.cli.train import main
from training.queue import line
from training.runs import care, process
from training.runs.launch import spawn
from training.runs.liveness import start_time
from training.runs.storage import storage_error
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings

PATIENCE_SECONDS = 120.0


def here(run: Run) -> int:
    return os.getpid()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def queued(store: RunStore, *names: str) -> list[Run]:
    runs = [store.create(TrainingSettings(), name) for name in names]
    for run in runs:
        line.join(run)
    return runs


def test_runs_are_started_in_the_order_in_which_they_came_and_one_at_a_time(store: RunStore) -> None:
    first, second = queued(store, "b", "a")
    assert [run.name for run in line.waiting(store)] == ["b", "a"]
    line.advance(store, here)
    assert first.state().status is Status.STARTING
    assert line.advance(store, here) is None
    assert second.state().status is Status.QUEUED
    first.update(status=Status.FINISHED)
    started = line.advance(store, here)
    assert started is not None and started.name == "a"
    assert not line.waiting(store)


def test_a_line_is_what_the_disk_says(store: RunStore) -> None:
    queued(store, "one", "two")
    assert [run.name for run in line.waiting(RunStore(store.root))] == ["one", "two"]
    assert not store.get("one").state().status.is_active
    assert store.active() is None
    assert line.must_wait(store)


def test_a_run_that_cannot_be_started_fails_with_the_reason_and_the_next_one_starts(store: RunStore) -> None:
    queued(store, "broken", "sound")

    def begin(run: Run) -> int:
        if run.name == "broken":
            raise storage_error(run.log_file, PermissionError(13, "Permission denied"))
        return os.getpid()

    started = line.advance(store, begin)
    assert started is not None and started.name == "sound"
    state = store.get("broken").state()
    assert state.status is Status.FAILED
    assert "Permission denied" in state.message_en and "无法写入" in state.message_zh


def test_a_run_that_is_taken_out_can_be_resumed_and_is_passed_over(
    store: RunStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    first, second, _ = queued(store, "first", "second", "third")
    line.leave(store, "first")
    assert first.state().status is Status.STOPPED
    with pytest.raises(RunError, match="first is not in line: it is stopped"):
        line.leave(store, "first")
    assert main(["--stop", "second", "--output_dir", str(store.root / "any")]) == 0
    assert "second waits no longer" in capsys.readouterr().out
    assert second.state().status is Status.STOPPED
    assert [run.name for run in line.waiting(store)] == ["third"]
    line.join(first)
    assert [run.name for run in line.waiting(store)] == ["third", "first"]
    process.resume(first, begin=here)
    assert [run.name for run in line.waiting(store)] == ["third"]


def test_a_run_in_line_can_be_renamed_and_deleted(store: RunStore) -> None:
    queued(store, "one", "two", "three")
    care.rename(store, "one", "first")
    care.delete(store, "two")
    assert [run.name for run in line.waiting(store)] == ["first", "three"]


def test_what_is_being_trained_does_not_join(store: RunStore) -> None:
    run = store.create(TrainingSettings(), "run")
    process.start(run, here)
    with pytest.raises(RunError, match="being trained already"):
        line.join(run)
    assert run.state().status is Status.STARTING


def test_the_next_waits_until_the_last_trainer_has_let_go_of_its_memory(store: RunStore) -> None:
    done, _ = store.create(TrainingSettings(), "done"), queued(store, "next")
    done.update(status=Status.FINISHED, pid=os.getppid(), pid_started_at=start_time(os.getppid()))
    assert line.advance(store, here) is None
    done.update(pid=2**31 - 1)
    assert line.advance(store, here) is not None


@pytest.mark.usefixtures("quick_trainers")
def test_trainers_start_each_other_past_one_that_fails_and_one_that_is_killed(store: RunStore, tmp_path: Path) -> None:
    """No page is there; only a killed trainer cannot start the next one, which whoever looks then does."""
    settings = tiny_settings(tmp_path, max_steps=2, per_device_train_batch_size=2, device="cpu")
    killed = store.create(replace(settings, max_steps=100_000), "killed")
    failing = store.create(replace(settings, train_file=str(tmp_path / "gone.json")), "failing")
    last = store.create(settings, "last")
    for run in (killed, failing, last):
        line.join(run)
    line.advance(store, spawn)
    wait_for(lambda: killed.state().status is Status.RUNNING)
    assert failing.state().status is last.state().status is Status.QUEUED
    pid = killed.state().pid
    assert pid is not None
    psutil.Process(pid).kill()
    wait_for(lambda: killed.state().status is Status.INTERRUPTED)
    wait_for(lambda: line.advance(store, spawn) is not None)
    wait_for(lambda: last.state().status is Status.FINISHED)
    assert failing.state().status is Status.FAILED
    assert [info.step for info in last.checkpoints()] == [2]
