"""Events are read as they were written, whatever happened to the writer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from training.runs.events import (
    CheckpointEvent,
    FinishedEvent,
    MessageEvent,
    StartedEvent,
    StepEvent,
    append_event,
    is_collapsed,
    last_event,
    read_events,
    step_history,
)


def started(step: int) -> StartedEvent:
    return StartedEvent(step=step, total_steps=9, examples=4, trainable_parameters=8, device="cpu")


def at_step(step: int, loss: float = 1.0) -> StepEvent:
    return StepEvent(
        step=step,
        total_steps=9,
        loss=loss,
        learning_rate=0.02,
        gradient_norm=0.5,
        seconds_per_step=0.1,
        tokens_per_second=100.0,
        seconds_left=1.0,
    )


def test_events_come_back_equal_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    written = [
        started(0),
        at_step(1),
        CheckpointEvent(step=1, name="checkpoint-1"),
        FinishedEvent(step=1, en="a", zh="好"),
    ]
    for event in written:
        append_event(file, event)
    assert read_events(file) == (written, file.stat().st_size)


def test_an_offset_gives_only_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_event(file, at_step(1))
    _, offset = read_events(file)
    assert read_events(file, offset) == ([], offset)
    append_event(file, at_step(2))
    events, _ = read_events(file, offset)
    assert [event.step for event in events if isinstance(event, StepEvent)] == [2]


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_event(file, at_step(1))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind": "step", "st')
    events, offset = read_events(file)
    assert len(events) == 1
    assert offset == len(whole)


def test_a_line_torn_by_a_kill_costs_no_later_event(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"kind": "step", "st')
    append_event(file, at_step(2))
    assert [event.step for event in read_events(file)[0] if isinstance(event, StepEvent)] == [2]


def test_unknown_events_and_fields_are_left_to_newer_versions(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        '{"kind": "dream"}\n[]\n{"kind": "checkpoint", "step": 3, "name": "c", "time": 1, "mood": "good"}\n'
    )
    assert read_events(file)[0] == [CheckpointEvent(step=3, name="c", time=1)]


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "checkpoint", "step": "many", "name": "c"}',
        '{"kind": "checkpoint", "step": 3, "name": null}',
        '{"kind": "evaluation", "step": 3, "metrics": {"loss": "low"}}',
        '{"kind": "started", "step": 3}',
        '{"kind": 7}',
        "7",
        "\x00",
    ],
)
def test_a_line_that_is_no_record_costs_no_other(tmp_path: Path, line: str) -> None:
    file = tmp_path / "events.jsonl"
    append_event(file, at_step(1))
    file.write_bytes(file.read_bytes() + line.encode() + b"\n")
    append_event(file, at_step(2))
    events, offset = read_events(file)
    assert [event.step for event in events if isinstance(event, StepEvent)] == [1, 2]
    assert (len(events), offset) == (2, file.stat().st_size)


def test_what_earlier_versions_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        '{"kind": "started", "time": 1.5, "step": 0, "total_steps": 9, "examples": 4, "trainable_parameters": 8, '
        '"device": "cpu"}\n'
        '{"kind": "step", "time": 2, "step": 1, "total_steps": 9, "loss": Infinity, "learning_rate": 0.1, '
        '"gradient_norm": NaN, "seconds_per_step": 1, "tokens_per_second": 5, "seconds_left": 8}\n'
        '{"kind": "message", "time": 3.0, "en": "a", "zh": "好"}\n',
        encoding="utf-8",
    )
    first, step, message = read_events(file)[0]
    assert isinstance(first, StartedEvent) and (first.time, first.general_examples) == (1.5, 0)
    assert isinstance(step, StepEvent) and math.isinf(step.loss) and math.isnan(step.gradient_norm)
    assert message == MessageEvent(en="a", zh="好", time=3.0)


def test_a_file_that_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_event(file, at_step(1))
    assert len(read_events(file, offset=10_000)[0]) == 1


def test_no_file_means_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == ([], 0)


def test_a_loss_of_nan_or_zero_survives_and_is_a_collapse(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for loss in (math.nan, 0.0):
        append_event(file, at_step(1, loss))
    losses = [event.loss for event in read_events(file)[0] if isinstance(event, StepEvent)]
    assert math.isnan(losses[0])
    assert losses[1] == 0.0
    assert all(is_collapsed(loss) for loss in losses)
    assert not is_collapsed(1e-6)


def test_steps_that_a_resumed_run_repeats_count_once() -> None:
    events = [started(0), at_step(1), at_step(2), at_step(3, 7.0), started(2), at_step(3, 5.0)]
    assert [(event.step, event.loss) for event in step_history(events)] == [(1, 1.0), (2, 1.0), (3, 5.0)]
    assert last_event(events, StartedEvent) == events[4]
