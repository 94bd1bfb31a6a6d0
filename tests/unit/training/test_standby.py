"""A trainer in reserve takes a run over as if started for it, never costs a click, and does not outlive its page."""

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

from training.runs import launch, process
from training.runs.events import PhaseEvent, StepEvent
from training.runs.launch import Standby
from training.runs.store import Run, RunStore, Status
from training.settings.samples import PROJECT_ROOT
from training.settings.train import TrainingSettings

PATIENCE_SECONDS = 120.0
HOLDER = """
import sys, time
from pathlib import Path
from training.runs import process
from training.runs.launch import Standby
from training.runs.store import RunStore
standby = Standby()
standby.prepare()
while standby.pid is None:
    time.sleep(0.05)
print(standby.pid, flush=True)
if len(sys.argv) > 1:
    sys.stdin.readline()
    process.start(RunStore(Path(sys.argv[1])).get("run"), standby.begin)
    print("started", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("training"), max_steps=2, per_device_train_batch_size=2, device="cpu")


@pytest.fixture
def run(tmp_path: Path, settings: TrainingSettings) -> Iterator[Run]:
    run = RunStore(tmp_path / "output").create(settings, "run")
    yield run
    state = run.state()
    if state.status.is_active and process.is_alive(state) and state.pid is not None:
        psutil.Process(state.pid).kill()


@pytest.fixture
def standby() -> Iterator[Standby]:
    standby = Standby(lambda: {"SAID_BY_PAGE": "cuda"})
    yield standby
    standby.close()


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for holder in started:
        holder.kill()
        holder.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ready(standby: Standby) -> int:
    standby.prepare()
    wait_for(lambda: standby.pid is not None)
    assert standby.pid is not None
    return standby.pid


def phases(run: Run) -> list[str]:
    return [event.phase for event in run.events()[0] if isinstance(event, PhaseEvent)]


def start_holder(holders: list[subprocess.Popen[str]], *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Another process with a trainer in reserve, and that one's id."""
    command = [sys.executable, "-c", HOLDER, *arguments]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    holders.append(holder)
    assert holder.stdout is not None
    return holder, int(holder.stdout.readline())


def test_a_trainer_in_reserve_trains_as_one_that_was_started_for_the_run(run: Run, standby: Standby) -> None:
    pid = ready(standby)
    process.start(run, standby.begin)
    state = run.state()
    assert state.pid == pid and process.is_alive(state)
    assert os.getsid(pid) == pid != os.getsid(0)
    trainer = psutil.Process(pid)
    assert Path(trainer.cwd()) == PROJECT_ROOT
    assert trainer.environ()["SAID_BY_PAGE"] == "cuda" and trainer.environ()["OMP_WAIT_POLICY"] == "PASSIVE"
    wait_for(lambda: not run.state().status.is_active)
    assert run.state().status is Status.FINISHED, run.log_tail()
    assert "all 2 steps are done" in run.log_tail()
    assert phases(run) == ["reading", "loading", "preparing"]
    wait_for(lambda: not psutil.pid_exists(pid))  # reaped


def test_what_was_handed_over_outlives_a_page_that_is_killed(
    run: Run, settings: TrainingSettings, holders: list[subprocess.Popen[str]]
) -> None:
    run.update(settings=replace(settings, max_steps=100_000))
    page, pid = start_holder(holders, str(run.path.parent))
    assert page.stdin is not None and page.stdout is not None
    page.stdin.write("\n")
    page.stdin.flush()
    assert page.stdout.readline() == "started\n"
    page.kill()
    page.wait()
    wait_for(lambda: any(isinstance(event, StepEvent) for event in run.events()[0]))
    assert run.state().pid == pid and run.state().status is Status.RUNNING
    process.request_stop(run)
    wait_for(lambda: run.state().status is Status.STOPPED)


def test_one_that_was_not_needed_ends_with_its_page_however_that_ends(holders: list[subprocess.Popen[str]]) -> None:
    page, pid = start_holder(holders)
    assert psutil.pid_exists(pid)
    page.kill()
    page.wait()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.usefixtures("quick_trainers")
@pytest.mark.parametrize("broken", ["dead", "stuck"])
def test_a_click_is_never_lost(run: Run, standby: Standby, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 0.2)
    pid = ready(standby)
    os.kill(pid, signal.SIGKILL if broken == "dead" else signal.SIGSTOP)
    process.start(run, standby.begin)
    assert run.state().pid != pid
    assert not psutil.pid_exists(pid), "it could still take the run"
    wait_for(lambda: not run.state().status.is_active)
    assert run.state().status is Status.FINISHED, run.log_tail()
    assert phases(run)[0] == "importing"


def test_one_that_still_imports_takes_the_run_when_it_has(run: Run, standby: Standby) -> None:
    standby.prepare()
    assert standby._spare is not None
    spare = standby._spare
    process.start(run, standby.begin)
    assert run.state().pid == spare.pid
    wait_for(lambda: not run.state().status.is_active)
    assert run.state().status is Status.FINISHED, run.log_tail()
    assert phases(run) == ["importing", "reading", "loading", "preparing"]


def test_one_that_never_takes_its_run_is_ended_and_the_run_can_be_resumed(
    run: Run, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "IMPORT_SECONDS", 0.5)
    standby.prepare()
    assert standby._spare is not None
    spare = standby._spare
    os.kill(spare.pid, signal.SIGSTOP)
    process.start(run, standby.begin)
    wait_for(lambda: run.state().status is Status.INTERRUPTED)
    assert not psutil.pid_exists(spare.pid)


def test_the_next_one_waits_until_the_run_is_on_its_way(
    run: Run, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SECONDS_BEFORE_NEXT", 0.0)
    monkeypatch.setattr(launch, "spawn", lambda run, environment: os.getpid())
    prepared: list[Status] = []
    monkeypatch.setattr(standby, "prepare", lambda: prepared.append(run.state().status))
    process.start(run, standby.begin)
    time.sleep(3 * launch.SECONDS_BETWEEN_LOOKS)
    assert prepared == []
    run.update(status=Status.RUNNING)
    wait_for(lambda: prepared == [Status.RUNNING])
    run.update(status=Status.FINISHED)


def test_none_is_kept_where_memory_is_short(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "NEEDED_FREE_BYTES", psutil.virtual_memory().total + 1)
    standby.prepare()
    assert standby._spare is None
