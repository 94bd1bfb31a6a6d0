"""What came out of runs that were made together, side by side.

Knows ``training``'s runs and their files. Knows neither Gradio nor how anything looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.training.run_view import RunFeed, RunView, read_view
from chatglm2.errors import RunError
from training.queue.sweep import brief
from training.runs.events import Event, StartedEvent
from training.runs.store import Run, RunStore, Status


@dataclass(frozen=True)
class SweptRun:
    """A run beside others. ``seconds`` are those it was trained for so far; ``checkpoint`` is the step of its last."""

    name: str
    settings: str
    status: Status
    step: int
    total_steps: int
    loss: float | None
    validation_loss: float | None
    seconds: float | None
    checkpoint: int | None
    scores: Mapping[str, float] = field(default_factory=dict)


class Sweeps:
    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._feeds: dict[str, RunFeed] = {}

    def names(self) -> list[str]:
        """The groups of runs that were made together, the newest first."""
        return list(dict.fromkeys(sweep for sweep, _ in self._members()))

    def results(self, sweep: str) -> list[SweptRun]:
        """The runs of a group in the order in which they were put in line."""
        rows = []
        for found, run in reversed(self._members()):
            if found == sweep:
                with contextlib.suppress(RunError):  # deleted meanwhile
                    rows.append(self._row(run))
        return rows

    def _members(self) -> list[tuple[str, Run]]:
        found = []
        for run in self._runs.list():
            with contextlib.suppress(RunError):
                if sweep := run.state().sweep:
                    found.append((sweep, run))
        return found

    def _row(self, run: Run) -> SweptRun:
        events = self._feeds.setdefault(run.name, RunFeed()).read(run)
        view = read_view(run, events)
        return SweptRun(
            name=run.name,
            settings=brief(run.settings()),
            status=view.status,
            step=view.step,
            total_steps=view.total_steps,
            loss=view.losses[-1].value if view.losses else None,
            validation_loss=view.validation[-1].value if view.validation else None,
            seconds=trained_seconds(events),
            checkpoint=_offered(view),
            scores={name: value for name, value in view.scores.items() if name != "loss"},
        )


def best_of(rows: Sequence[SweptRun]) -> SweptRun | None:
    """The one whose last validation loss is the lowest; None until two have one."""
    validated = [(row.validation_loss, row) for row in rows if row.validation_loss is not None]
    return min(validated, key=lambda pair: pair[0])[1] if len(validated) > 1 else None


def trained_seconds(events: Sequence[Event]) -> float | None:
    """From each start to the last word before the next one; a pause between the two does not count."""
    total, began, last = 0.0, None, 0.0
    for event in events:
        if isinstance(event, StartedEvent):
            total += last - began if began is not None else 0.0
            began = event.time
        last = event.time
    return None if began is None else total + last - began


def _offered(view: RunView) -> int | None:
    offered = view.offered_checkpoint
    return None if offered is None else offered.step
