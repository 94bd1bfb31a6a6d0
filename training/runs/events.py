"""What a training run tells the world: typed records in ``events.jsonl``, one JSON object a line.

Knows the records and how they are appended and read. The trainer writes them, the page and the command line read them,
and neither needs the other to be there: a reader tolerates a last line that is still being written.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of every record. ``time`` is in seconds since the epoch."""

    kind: ClassVar[str] = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class StartedEvent(Event):
    """Training begins, or goes on from ``step``: points of a curve beyond it are void.

    An epoch has ``examples`` rows of the task and ``general_examples`` that are mixed in.
    """

    kind = "started"
    step: int
    total_steps: int
    examples: int
    general_examples: int = 0
    trainable_parameters: int
    device: str


@dataclass(frozen=True, kw_only=True)
class StepEvent(Event):
    """A point of the curve: means over the steps since the last one. A loss of NaN or 0 shows a collapse."""

    kind = "step"
    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds_per_step: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint is on disk, complete. ``name`` is its directory's in the run."""

    kind = "checkpoint"
    step: int
    name: str


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent(Event):
    """Measured on validation rows: ``metrics`` by name, such as ``loss`` and ``rouge-l``."""

    kind = "evaluation"
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RetentionEvent(Event):
    """What is left of the base model's answers to general questions.

    Attributes:
        kept: mean nearness to the base's answers, from 0 to 100.
        prompts: questions asked.
        unchanged: answers that are the base's word for word.
        examples: those that changed most, each with ``prompt``, ``before`` and ``after``.
    """

    kind = "retention"
    step: int
    kept: float
    prompts: int
    unchanged: int
    examples: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class MessageEvent(Event):
    """Something a person should know, in English and Chinese."""

    kind = "message"
    en: str
    zh: str


@dataclass(frozen=True, kw_only=True)
class EndedEvent(Event):
    """Training is over; ``step`` is the last one done."""

    step: int
    en: str
    zh: str


@dataclass(frozen=True, kw_only=True)
class FinishedEvent(EndedEvent):
    """All steps are done and saved."""

    kind = "finished"


@dataclass(frozen=True, kw_only=True)
class StoppedEvent(EndedEvent):
    """Somebody asked it to stop; the last step is saved."""

    kind = "stopped"


@dataclass(frozen=True, kw_only=True)
class FailedEvent(EndedEvent):
    """It could not go on; the message says why."""

    kind = "failed"


_KINDS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        StartedEvent,
        StepEvent,
        CheckpointEvent,
        EvaluationEvent,
        RetentionEvent,
        MessageEvent,
        FinishedEvent,
        StoppedEvent,
        FailedEvent,
    )
}


def append_event(path: Path, event: Event) -> None:
    """Add ``event`` to the file, whole and flushed; a torn line that a killed writer left behind is closed first."""
    line = json.dumps({"kind": event.kind, **dataclasses.asdict(event)}, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode("utf-8"))


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte ``offset`` on, and the offset to ask for next time.

    A last line without its end is left for the next call. Lines that are no event, torn by a kill or written by a newer
    version, are skipped. An offset beyond the file's end means that the run began anew: it is read from the start.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = offset if offset <= size else 0
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    complete = content.rfind(b"\n") + 1
    events = [event for line in content[:complete].splitlines() if (event := _parse(line)) is not None]
    return events, start + complete


EventT = TypeVar("EventT", bound=Event)


def last_event(events: Iterable[Event], kind: type[EventT]) -> EventT | None:
    """The latest event of ``kind``."""
    return next((event for event in reversed(list(events)) if isinstance(event, kind)), None)


PointT = TypeVar("PointT", StepEvent, EvaluationEvent, RetentionEvent)


def step_history(events: Iterable[Event]) -> list[StepEvent]:
    """The curve: steps in order, without those that a resumed run did again."""
    return point_history(events, StepEvent)


def point_history(events: Iterable[Event], kind: type[PointT]) -> list[PointT]:
    """What was measured at steps, in order, without those that a resumed run did again."""
    points: list[PointT] = []
    for event in events:
        if isinstance(event, StartedEvent):
            points = [point for point in points if point.step <= event.step]
        elif isinstance(event, kind):
            points.append(event)
    return points


def _parse(line: bytes) -> Event | None:
    try:
        record: dict[str, Any] = json.loads(line)
        kind = _KINDS[record.pop("kind")]
        names = {item.name for item in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in record.items() if name in names})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def is_collapsed(loss: float) -> bool:
    """Whether a loss shows that training has broken down: not a number, infinite, or exactly 0."""
    return not math.isfinite(loss) or loss == 0.0
