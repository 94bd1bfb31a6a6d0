"""What a line of the curve tells of time: steps without what is set aside, and what is left with all that recurs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import tiny_settings

from training.evaluation.metrics import Scores
from training.loop import meter as meter_module
from training.loop import questioner as questioner_module
from training.loop import trainer as trainer_module
from training.loop.meter import Meter, Pace
from training.runs.events import step_history
from training.runs.store import RunStore
from training.worker.alone import train


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "monotonic", clock)
    return clock


def test_a_window_ends_with_its_reading(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(0)
    clock.pass_seconds(4)
    assert meter.read(2, 10, 100) == Pace(seconds_per_step=2, tokens_per_second=25, seconds_left=16)
    meter.tokens = 7
    clock.pass_seconds(2)
    assert meter.read(4, 10, 100) == Pace(seconds_per_step=1, tokens_per_second=50, seconds_left=6)
    assert meter.tokens == 0


def test_time_left_counts_the_steps_of_this_process_alone(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(90)  # resumed
    clock.pass_seconds(30)
    assert meter.read(100, 110, 1).seconds_left == 30


def test_time_left_does_not_remember_for_ever_what_the_first_step_compiled(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(0)
    clock.pass_seconds(600)  # compiles
    assert meter.read(1, 101, 1).seconds_left == 60_000
    for step in range(2, 41):
        clock.pass_seconds(1)
        left = meter.read(step, 101, 1).seconds_left
        assert left == 101 - step


def test_time_left_counts_what_comes_again_now_and_then(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(0)
    for step in range(1, 41):
        clock.pass_seconds(1)
        left = meter.read(step, 100, 1).seconds_left
        if step % 10 == 0:
            with meter.set_aside():
                clock.pass_seconds(30)  # validates
    assert left == pytest.approx(60 * (20 + 2 * 30) / 20)


def test_what_is_set_aside_is_no_step_but_comes_again(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(0)
    clock.pass_seconds(4)
    with pytest.raises(ZeroDivisionError), meter.set_aside():
        clock.pass_seconds(100)
        raise ZeroDivisionError
    assert meter.read(2, 4, 8) == Pace(seconds_per_step=2, tokens_per_second=2, seconds_left=104)


def test_a_pause_inside_what_is_set_aside_counts_once(clock: Clock) -> None:
    meter = Meter(24, 0, 10)
    meter.begin(0)
    clock.pass_seconds(4)
    with meter.set_aside(), meter.set_aside():
        clock.pass_seconds(100)
    assert meter.read(2, 4, 8).seconds_per_step == 2


def test_losses_belong_to_one_step() -> None:
    meter = Meter(24, 0, 10)
    meter.keep_loss(first := meter_module.Tensor())
    assert meter.take_losses() == [first]
    assert meter.take_losses() == []


def test_neither_validation_nor_general_questions_slow_a_step_down(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "你好"}\n', encoding="utf-8")
    settings = tiny_settings(tmp_path, max_steps=4, per_device_train_batch_size=4)
    settings = replace(
        settings,
        validation_file=settings.train_file,
        eval_steps=2,
        eval_generate_samples=1,
        retention_check="on",
        retention_file=str(questions),
    )
    compute, ask = trainer_module.PrefixTrainer.training_step, questioner_module.answer_examples

    def step(*args: object, **kwargs: object) -> object:
        clock.pass_seconds(2)
        return compute(*args, **kwargs)  # type: ignore[arg-type]

    def validate(*args: object) -> Scores:
        clock.pass_seconds(50)
        return Scores(0, 0, 0, 0)

    def answer(*args: object) -> object:
        clock.pass_seconds(300)
        yield from ask(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer_module.PrefixTrainer, "training_step", step)
    monkeypatch.setattr(trainer_module, "score_sample", validate)
    monkeypatch.setattr(questioner_module, "answer_examples", answer)
    run = RunStore(tmp_path / "output").create(settings, "run")
    train(run)
    steps = step_history(run.events()[0])
    assert [event.seconds_per_step for event in steps] == [2, 2, 2, 2]
    # The base has answered before step 1; validation and answers follow the line of step 2.
    assert [event.seconds_left for event in steps] == pytest.approx([302 * 3, 2 * 2, (2 + 350 + 2) / 2, 0])
