"""Rows that are held back of the training data, and what a checkpoint says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import tiny_settings

from training.data.encoding import Example
from training.loop.run_data import hold_back
from training.runs.events import EvaluationEvent, point_history
from training.runs.store import RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import train

ROWS = [Example(f"question {number}", "answer") for number in range(40)]


def test_rows_held_back_are_not_trained_on_and_are_the_same_every_time() -> None:
    settings = TrainingSettings(validation_split=0.1, eval_steps=1)
    kept, held = hold_back(ROWS, settings)
    assert len(held) == 4 and not {row.prompt for row in held} & {row.prompt for row in kept}
    assert len(kept) + len(held) == len(ROWS)
    assert hold_back(ROWS, settings) == (kept, held)
    assert hold_back(ROWS, replace(settings, seed=7))[1] != held


@pytest.mark.parametrize(("rows", "limit", "expected"), [(1, None, 1), (2, None, 1), (40, 3, 3)])
def test_few_rows_are_enough_and_no_more_are_held_back_than_are_measured(
    rows: int, limit: int | None, expected: int
) -> None:
    settings = TrainingSettings(validation_split=0.1, eval_steps=1, max_eval_samples=limit)
    kept, held = hold_back(ROWS[:rows], settings)
    assert kept and len(held) == expected


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_say_the_same_are_on_one_side(seed: int) -> None:
    settings = TrainingSettings(validation_split=0.25, eval_steps=1, seed=seed)
    rows = [row for number, row in enumerate(ROWS) for _ in range(1 + number % 3)]
    kept, held = hold_back(rows, settings)
    assert held and not set(held) & set(kept) and len(kept) + len(held) == len(rows)
    assert len(held) <= round(len(rows) / 4)


@pytest.mark.parametrize(("copies", "expected"), [((6, 30), 6), ((30, 6), 6), ((6,), 6)])
def test_of_rows_that_are_there_many_times_the_rarest_is_validated_on(copies: tuple[int, ...], expected: int) -> None:
    rows = [row for row, count in zip(ROWS, copies, strict=False) for _ in range(count)]
    kept, held = hold_back(rows, TrainingSettings(validation_split=0.1, eval_steps=1))
    assert kept and len(held) == expected


def test_every_checkpoint_says_its_own_validation_loss_the_last_one_too(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=3, per_device_train_batch_size=4)
    asked = replace(settings, save_steps=2, eval_steps=2, validation_split=0.2, retention_check="off")
    run = RunStore(tmp_path / "output").create(asked, "run")
    train(run)
    measured = {event.step: event.metrics["loss"] for event in point_history(run.events()[0], EvaluationEvent)}
    assert list(measured) == [2, 3]
    assert {info.step: info.validation_loss for info in run.checkpoints()} == measured
