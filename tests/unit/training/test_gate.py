"""Training makes room for whoever waits for an answer, and never for so long that a busy page could stop it."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_models import build_model
from tiny_checkpoint import tiny_settings

from chatglm2.errors import RunError
from chatglm2.memory import peers
from chatglm2.memory.lending import Activity, Lender
from training.cli.train import main
from training.loop.gate import MOST_PAUSED_SECONDS, WINDOW_SECONDS, Gate, PausePolicy
from training.loop.meter import Meter
from training.loop.passes import recompute_layers
from training.runs import process
from training.runs.events import StepEvent, step_history
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Page:
    """Busy in some stretches of a clock's time; waiting for it moves the clock."""

    def __init__(self, clock: Clock, stretches: list[tuple[float, float]]) -> None:
        self.clock = clock
        self.stretches = stretches
        self.waits: list[tuple[float, float]] = []

    @property
    def is_busy(self) -> bool:
        return any(began <= self.clock.now < ended for began, ended in self.stretches)

    def wait_until_quiet(self, timeout: float) -> bool:
        began = self.clock.now
        quiet = max((ended for start, ended in self.stretches if start <= began < ended), default=began)
        self.clock.now = min(quiet, began + timeout)
        self.waits.append((began, self.clock.now))
        return not self.is_busy


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("gate"), max_steps=6, per_device_train_batch_size=4)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


@pytest.fixture
def run(store: RunStore, settings: TrainingSettings) -> Run:
    return store.create(settings, "run")


def most_paused(pauses: list[tuple[float, float]], window: float = WINDOW_SECONDS) -> float:
    """Of all windows; one that holds most begins or ends where a pause does."""
    edges = [edge for pause in pauses for edge in pause]
    starts = [*edges, *(edge - window for edge in edges)]
    return max(
        sum(max(min(ended, start + window) - max(began, start), 0.0) for began, ended in pauses) for start in starts
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_minute_is_paused_for_more_than_four_fifths_whoever_is_busy_when(seed: int, run: Run) -> None:
    draw, clock = random.Random(seed), Clock()
    busy, moment = [], 0.0
    while moment < 600:
        moment += draw.expovariate(1 / draw.choice([0.01, 1, 20]))
        length = draw.expovariate(1 / draw.choice([0.5, 10, 200]))
        busy.append((moment, moment + length))
        moment += length
    page = Page(clock, busy)
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    while clock.now < 600:
        with gate.passing():
            clock.now += draw.expovariate(1 / draw.choice([0.05, 2, 15]))
    assert page.waits
    assert most_paused(page.waits) <= MOST_PAUSED_SECONDS + 1e-6
    assert most_paused(page.waits, 60.0) <= 48 + 1e-6


def test_a_page_that_is_always_busy_leaves_a_fifth_of_each_minute_and_no_more(run: Run) -> None:
    clock = Clock()
    page = Page(clock, [(0, 1e9)])
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    while clock.now < 599:
        with gate.passing():
            clock.now += 0.5
    assert sum(ended - began for began, ended in page.waits) == pytest.approx(480, abs=13)
    assert most_paused(page.waits, 60.0) <= 48 + 1e-6


def test_a_busy_page_never_waits_long_for_the_pause_nor_a_run_for_its_turn(run: Run) -> None:
    clock = Clock()
    page = Page(clock, [(0, 1e9)])
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    work: list[tuple[float, float]] = []
    while clock.now < 120:
        with gate.passing():
            began = clock.now
            clock.now += 0.1
            work.append((began, clock.now))
    silences = [later - ended for (_, ended), (later, _) in pairwise(work)]
    assert max(silences) <= 4 + 1e-6
    bursts = [began for began, silence in zip((began for began, _ in work[1:]), silences, strict=True) if silence > 0.5]
    assert len(bursts) > 20 and all(4.9 < later - earlier < 5.2 for earlier, later in pairwise(bursts))


def test_a_first_pause_may_last_as_long_as_a_pause_may_and_the_next_follows_enough_work() -> None:
    policy = PausePolicy()
    assert policy.seconds_allowed(100) == MOST_PAUSED_SECONDS == 4
    policy.note(100, 104)
    assert policy.seconds_allowed(104) == policy.seconds_allowed(104.99) == pytest.approx(0)
    assert policy.seconds_allowed(105) == pytest.approx(MOST_PAUSED_SECONDS)
    policy.note(105, 106)
    assert policy.seconds_allowed(106.5) == pytest.approx(3)  # half a second of work, 1 paused and as much before


def test_even_pauses_as_long_as_the_last_pass_took_and_not_inside_one(run: Run) -> None:
    run.set_share("even")
    clock = Clock()
    page = Page(clock, [(0, 1e9)])
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    for seconds in (3.0, 5.0, 0.5):
        with gate.passing():
            clock.now += seconds
            gate._before_layer()
    # In pieces of a second, after each of which the run's directory is looked at.
    assert sum(ended - began for began, ended in page.waits) == pytest.approx(3 + 5)


def test_a_layer_of_a_pass_waits_and_one_of_something_else_does_not(run: Run) -> None:
    clock = Clock()
    page = Page(clock, [(1, 4)])
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    clock.now = 2.0
    gate._before_layer()
    assert not page.waits
    clock.now = 0.0
    with gate.passing():
        clock.now = 2.0
        gate._before_layer()
        assert clock.now == 4.0


@pytest.mark.parametrize("change", ["training-first", "stop"])
def test_a_pause_ends_when_it_shall_not_be_kept_or_the_run_shall_stop(run: Run, change: str) -> None:
    clock = Clock()

    class Watched(Page):
        def wait_until_quiet(self, timeout: float) -> bool:
            if clock.now > 1:
                run.set_stop_request(True) if change == "stop" else run.set_share(change)
            return super().wait_until_quiet(timeout)

    Gate(run, Watched(clock, [(0, 1e9)]), Meter(1, 0, 1), CPU, clock).make_room()
    assert 1 < clock.now < MOST_PAUSED_SECONDS


def test_the_change_lives_until_the_run_is_started_again_with_it(run: Run) -> None:
    assert (run.share(), run.settings().share) == ("chat-first", "chat-first")
    run.set_share("even")
    assert run.settings().share == "even"
    run.update(settings=run.settings())
    run.settle_share()
    assert run.share() == "even"
    with pytest.raises(RunError, match="chat-first, even, training-first"):
        run.set_share("never")
    (run.path / "share").write_text("gibberish", encoding="utf-8")
    assert run.share() == "even"


def test_a_resumed_run_keeps_the_change_in_its_settings(run: Run) -> None:
    run.set_share("even")
    run.update(status=Status.STOPPED)
    process.resume(run, begin=lambda _: os.getpid())
    assert run.share() == "even" and not (run.path / "share").exists()
    run.update(status=Status.STOPPED)
    run.set_share("training-first")
    process.resume(run, settings=replace(run.settings(), share="chat-first"), begin=lambda _: os.getpid())
    assert run.share() == "chat-first"


def test_a_run_that_has_ended_takes_no_change(run: Run) -> None:
    run.update(status=Status.STOPPED)
    with pytest.raises(RunError, match="not being trained"):
        process.set_share(run, "even")


@pytest.mark.parametrize("recomputes", [False, True])
def test_every_layer_waits_however_it_is_computed(run: Run, recomputes: bool) -> None:
    model = build_model().train()
    model.prepare_prefix_tuning(4)
    if recomputes:
        recompute_layers(model)
    clock = Clock()
    page = Page(clock, [(layer, layer + 0.5) for layer in range(1, 4)])
    gate = Gate(run, page, Meter(1, 0, 1), CPU, clock)
    gate.watch_layers(model)
    for block in model.transformer.encoder.blocks():
        block.post_attention_layernorm.register_forward_pre_hook(lambda *_: setattr(clock, "now", int(clock.now) + 1.0))
    clock.now = 1.0
    with gate.passing():
        model(torch.ones(2, 5, dtype=torch.long))
    assert [began for began, _ in page.waits] == [1.0, 2.0, 3.0]


# With a page that is really there


class Purse:
    """A source with nothing to lend."""

    def __init__(self) -> None:
        self.activity = Activity()
        self.wanted: list[int] = []
        self.given_back = 0

    def lend(self, wanted: int, borrower: object) -> int:
        self.wanted.append(wanted)
        return 0

    def take_back(self, borrower: object) -> None:
        self.given_back += 1


@pytest.fixture
def purse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Purse]:
    if sys.platform != "linux":
        pytest.skip("processes talk on Linux only")
    monkeypatch.setenv(peers.RUNTIME_VARIABLE, str(tmp_path / "runtime"))
    purse = Purse()
    lender = Lender(purse, CPU)
    yield purse
    lender.close()


def steps(run: Run) -> list[StepEvent]:
    return step_history(run.events()[0])


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def takes_no_step(run: Run, seconds: float) -> bool:
    before = len(steps(run))
    time.sleep(seconds)
    return len(steps(run)) == before


def quiet(run: Run, purse: Purse) -> None:
    purse.activity.set(False)


def training_first(run: Run, purse: Purse) -> None:
    assert main(["--output_dir", str(run.path), "--set_share", run.name, "training-first"]) == 0


def stop(run: Run, purse: Purse) -> None:
    process.request_stop(run)


@pytest.mark.usefixtures("quick_trainers")
@pytest.mark.parametrize(
    ("end", "recomputing", "status"),
    [(quiet, "on", Status.FINISHED), (training_first, "off", Status.FINISHED), (stop, "off", Status.STOPPED)],
)
def test_steps_stop_while_somebody_waits_for_an_answer_and_go_on_after(
    store: RunStore,
    settings: TrainingSettings,
    purse: Purse,
    end: Callable[[Run, Purse], None],
    recomputing: str,
    status: Status,
) -> None:
    values = {"max_steps": 300, "save_steps": 300, "gradient_checkpointing": recomputing, "device": "cpu"}
    run = store.create(replace(settings, **values), "run")
    process.start(run)
    try:
        wait_for(lambda: len(steps(run)) > 2)
        assert purse.wanted[0] > 0
        purse.activity.set(True)
        wait_for(lambda: takes_no_step(run, seconds=2.0))
        stood = len(steps(run))
        assert stood < 300
        end(run, purse)
        wait_for(lambda: not run.state().status.is_active)
    finally:
        run.set_stop_request(True)
        purse.activity.set(False)
    assert run.state().status == status
    paused = steps(run)[stood]
    assert paused.seconds_per_step < 2.0  # the pause is no part of the step, but of what comes
    assert paused.seconds_left > 2.0 / paused.step * (paused.total_steps - paused.step)
    wait_for(lambda: purse.given_back == 1)
