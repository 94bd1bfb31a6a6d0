"""One process trains a run, on whichever machine; who is frozen is called so, and no jump of a clock deceives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import step_event

from chatglm2.errors import RunError
from training.runs import liveness, process
from training.runs import store as store_module
from training.runs.liveness import LEASE_FILE, Lease, start_time, this_boot
from training.runs.store import LAUNCH_SECONDS, Run, RunStore, Status
from training.settings.train import TrainingSettings
from training.worker.alone import holding, work

SETTINGS = TrainingSettings(max_steps=4)
HOUR = 3600.0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path / "output").create(SETTINGS, "run")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (liveness, process):
        monkeypatch.setattr(module, "LEAVE_SECONDS", 0.05)


def seem_elsewhere(run: Run) -> None:
    """As if another machine trained it, whose process ids mean nothing here."""
    run.update(status=Status.RUNNING, pid=2**22 + 1, pid_started_at=5.0, host="node-2", boot="another boot")


def last_awake(run: Run, seconds_ago: float) -> None:
    (run.path / LEASE_FILE).touch()
    os.utime(run.path / LEASE_FILE, (time.time() - seconds_ago,) * 2)


def test_a_run_on_another_machine_is_running_as_long_as_its_trainer_is_awake(run: Run) -> None:
    seem_elsewhere(run)
    with Lease(run.path).held() as is_mine:
        assert is_mine
        assert run.state().status is Status.RUNNING
        with pytest.raises(RunError, match="being trained already"):
            process.resume(run)


def test_who_holds_the_lease_elsewhere_and_is_silent_is_not_taken_for_gone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem_elsewhere(run)
    monkeypatch.setattr(liveness, "BEAT_SECONDS", HOUR)
    with Lease(run.path).held():
        last_awake(run, HOUR)
        state = run.state()
        assert state.status is Status.SILENT
        assert "node-2" in state.message_en and "node-2" in state.message_zh
    assert run.state().status is Status.INTERRUPTED


def test_a_run_of_a_machine_that_went_down_can_be_resumed_here(run: Run) -> None:
    seem_elsewhere(run)
    last_awake(run, HOUR)
    assert run.state().status is Status.INTERRUPTED


def test_a_second_trainer_is_refused_and_touches_nothing(run: Run) -> None:
    code = "from pathlib import Path; import sys, time; from training.runs.liveness import Lease\n"
    code += "with Lease(Path(sys.argv[1])).held():\n    print('held', flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        before = {item.name: item.read_bytes() for item in run.path.iterdir()}
        with pytest.raises(RunError, match="by another process"):
            work(run.path)
        assert {item.name: item.read_bytes() for item in run.path.iterdir()} == before
        with pytest.raises(RunError, match="being trained right now"):
            RunStore(run.path.parent).create(SETTINGS, "run", overwrite=True)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with holding(run):
        assert run.lease.is_held()
    assert not run.lease.is_held()


@pytest.mark.parametrize(
    ("silent_for", "step_seconds", "status"),
    [(5, 0.01, Status.RUNNING), (15, 1.0, Status.SILENT), (15, 3.0, Status.RUNNING), (31, 3.0, Status.SILENT)],
)
def test_a_frozen_trainer_is_not_answering_after_ten_steps_time(
    run: Run, silent_for: float, step_seconds: float, status: Status
) -> None:
    run.update(status=Status.RUNNING)
    run.name_trainer(os.getpid())
    run.append(step_event(1, seconds_per_step=step_seconds))
    last_awake(run, silent_for)
    state = run.state()
    assert state.status is status
    assert state.status.is_active
    assert (f"kill -CONT {os.getpid()}" in state.message_en) is (status is Status.SILENT)


def test_a_trainer_that_still_imports_is_given_longer(run: Run) -> None:
    run.name_trainer(os.getpid())
    last_awake(run, 30)
    assert run.state().status is Status.STARTING


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_leaves_no_run_starting(run: Run, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    now = time.time()
    monkeypatch.setattr(store_module.time, "time", lambda: now + jump)
    assert run.state().status is Status.INTERRUPTED


def test_a_clock_that_jumps_ends_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.update(status=Status.RUNNING)
    run.name_trainer(os.getpid())
    now = time.time()
    monkeypatch.setattr(store_module.time, "time", lambda: now - HOUR)
    assert run.state().status is Status.RUNNING
    assert LAUNCH_SECONDS < HOUR


def test_a_state_names_the_machine_and_its_boot(run: Run) -> None:
    run.name_trainer(os.getpid())
    state = run.state()
    assert (state.pid, state.host, state.boot) == (os.getpid(), socket.gethostname(), this_boot())
    assert state.pid_started_at == start_time(os.getpid())


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_what_can_be_no_process_is_none(pid: int) -> None:
    assert pid == 0 or start_time(pid) is None
