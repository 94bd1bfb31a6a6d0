"""The trainer is a process of its own: it outlives its starter, obeys a stop, and its death is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_checkpoint import tiny_settings

from chatglm2.errors import RunError
from training.cli.train import main
from training.runs import process
from training.runs import store as store_module
from training.runs.events import EndedEvent, FailedEvent, StepEvent, StoppedEvent, last_event
from training.runs.liveness import is_running, start_time
from training.runs.store import Run, RunState, RunStore, Status
from training.settings.train import TrainingSettings

PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("training"), max_steps=3, per_device_train_batch_size=2, device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "output")
    yield store
    for run in store.list():
        state = run.state()
        if state.status.is_active and process.is_alive(state) and state.pid is not None:
            psutil.Process(state.pid).kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def steps_of(run: Run) -> list[int]:
    return [event.step for event in run.events()[0] if isinstance(event, StepEvent)]


@pytest.mark.usefixtures("quick_trainers")
def test_a_run_can_be_started_frozen_stopped_killed_and_resumed(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(replace(settings, max_steps=100_000, save_steps=5), "long")
    process.start(run)
    assert run.state().status is Status.STARTING
    assert process.is_alive(run.state())
    pid = run.state().pid
    assert pid is not None
    wait_for(lambda: len(steps_of(run)) > 6)

    second = store.create(settings, "second")
    with pytest.raises(RunError, match="long is being trained"):
        process.start(second)
    assert [found.name for found in store.list()] == ["long"]
    with pytest.raises(RunError, match="being trained already"):
        process.resume(run)
    with pytest.raises(RunError, match="being trained right now"):
        store.create(settings, "long", overwrite=True)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "SILENT_SECONDS", 2.0)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: run.state().status is Status.SILENT)
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: run.state().status is Status.RUNNING)

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: run.state().status is Status.INTERRUPTED)
    wait_for(lambda: not psutil.pid_exists(pid))  # reaped, not left as a zombie

    last = run.resumable_checkpoints()[-1].step
    process.resume(run)
    wait_for(lambda: run.state().status is Status.RUNNING and steps_of(run)[-1] > last)
    process.request_stop(run)
    wait_for(lambda: not run.state().status.is_active)
    ended = last_event(run.events()[0], StoppedEvent)
    assert run.state().status is Status.STOPPED
    assert ended is not None
    assert run.checkpoints()[-1].step == ended.step == steps_of(run)[-1]
    with pytest.raises(RunError, match="is not being trained: it is stopped"):
        process.request_stop(run)


def test_a_trainer_stands_alone_and_a_polite_kill_stops_it_like_a_request(
    store: RunStore, settings: TrainingSettings
) -> None:
    run = store.create(replace(settings, max_steps=100_000), "run")
    process.start(run)
    pid = run.state().pid
    assert pid is not None
    assert os.getsid(pid) == pid != os.getsid(0), "it would die with its starter's terminal"
    wait_for(lambda: bool(steps_of(run)))
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: run.state().status is Status.STOPPED)
    assert run.checkpoints()[-1].step == steps_of(run)[-1]


@pytest.mark.usefixtures("quick_trainers")
def test_a_run_that_fails_says_why(store: RunStore, settings: TrainingSettings, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('{"content": "a", "summaty": "b"}')
    run = store.create(replace(settings, train_file=str(rows)), "run")
    process.start(run)
    wait_for(lambda: not run.state().status.is_active)
    state = run.state()
    assert state.status is Status.FAILED
    assert "Is 'summaty' a slip for 'summary'?" in state.message_en
    ended = last_event(run.events()[0], EndedEvent)
    assert isinstance(ended, FailedEvent)
    assert ended.zh == state.message_zh
    assert "Traceback" not in run.log_tail()


@pytest.mark.usefixtures("quick_trainers")
@pytest.mark.parametrize(
    ("damaged", "sentence", "has_traceback"),
    [("prefix.safetensors", "truncated or damaged", False), ("optimizer.pt", "failed unexpectedly", True)],
)
def test_a_damaged_checkpoint_fails_the_resumed_run_with_a_reason(
    store: RunStore, settings: TrainingSettings, damaged: str, sentence: str, has_traceback: bool
) -> None:
    run = store.create(replace(settings, max_steps=1), "run")
    process.start(run)
    wait_for(lambda: run.state().status is Status.FINISHED)
    (run.checkpoint_path(1) / damaged).write_bytes(b"not what it should be")
    process.resume(run, settings=settings)
    wait_for(lambda: not run.state().status.is_active)
    assert run.state().status is Status.FAILED
    assert sentence in run.state().message_en
    assert ("Traceback" in run.log_tail()) is has_traceback


@pytest.mark.usefixtures("quick_trainers")
def test_the_command_line_trains_resumes_and_refuses(
    store: RunStore, settings: TrainingSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    place = store.root / "run"
    words = [
        *("--model_name_or_path", settings.model_name_or_path, "--train_file", settings.train_file),
        *("--max_steps", "3", "--per_device_train_batch_size", "2", "--pre_seq_len", "3"),
        *("--output_dir", str(place), "--device", "cpu"),
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Saved checkpoint-3" in shown
    assert "Finished: all 3 steps are done." in shown

    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["--resume_from_checkpoint", str(place)]) == 2
    assert "has done all its 3 steps" in capsys.readouterr().err
    assert main(["--resume_from_checkpoint", str(place), "--learning_rate", "0.1"]) == 2
    assert "start a new run with --ptuning_checkpoint" in capsys.readouterr().err

    assert main(["--resume_from_checkpoint", str(place / "checkpoint-3"), "--max_steps", "5"]) == 0
    assert "Finished: all 5 steps are done." in capsys.readouterr().out
    assert [info.step for info in store.get("run").checkpoints()] == [3, 5]
    assert main(["--list", "--output_dir", str(place)]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    began = start_time(child.pid)
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_running(child.pid, began)
    child.wait()


def test_this_process_is_alive_only_with_its_own_start() -> None:
    began = start_time(os.getpid())
    assert process.is_alive(RunState(pid=os.getpid(), pid_started_at=began))
    assert not process.is_alive(RunState(pid=os.getpid(), pid_started_at=(began or 0) - 10))
    assert not process.is_alive(RunState())
