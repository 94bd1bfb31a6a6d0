"""What a training run tells the world: typed records in ``events.jsonl``, one JSON object a line.

Knows the records and how they are appended and read. The trainer writes them, the page and the command line read them,
and neither needs the other to be there: a reader tolerates a last line that is still being written, and passes over one
that is no record.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatglm2.files import open_regular

CHUNK_BYTES = 4 * 2**20
# Beyond these a number in a file is a mistake.
Step = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]


class Event(BaseModel):
    """Base of every record. ``time`` is in seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    time: float = Field(default_factory=time.time)


Phase = Literal["importing", "reading", "loading", "preparing"]
PHASE_WORDS: dict[Phase, tuple[str, str]] = {
    "importing": ("importing libraries", "正在导入库"),
    "reading": ("reading the data", "正在读取数据"),
    "loading": ("loading the model", "正在加载模型"),
    "preparing": ("getting the first step ready", "正在准备第一步"),
}


class PhaseEvent(Event):
    """What a run does before its first step: import libraries, read data, load the model, get the first step ready."""

    kind: Literal["phase"] = "phase"
    phase: Phase


class StartedEvent(Event):
    """Training begins, or goes on from ``step``: points of a curve beyond it are void.

    An epoch has ``examples`` rows of the task and ``general_examples`` that are mixed in.
    """

    kind: Literal["started"] = "started"
    step: Step
    total_steps: Step
    examples: int
    general_examples: int = 0
    trainable_parameters: int
    device: str


class StepEvent(Event):
    """A point of the curve: means over the steps since the last one. A loss of NaN or 0 shows a collapse."""

    kind: Literal["step"] = "step"
    step: Step
    total_steps: Step
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds_per_step: Seconds
    tokens_per_second: float
    seconds_left: Seconds


class CheckpointEvent(Event):
    """A checkpoint is on disk, complete. ``name`` is its directory's in the run."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: Step
    name: str


class EvaluationEvent(Event):
    """Measured on validation rows: ``metrics`` by name, such as ``loss`` and ``rouge-l``."""

    kind: Literal["evaluation"] = "evaluation"
    step: Step
    metrics: dict[str, float]


class RetentionEvent(Event):
    """What is left of the base model's answers to general questions.

    Attributes:
        kept: mean nearness to the base's answers, from 0 to 100.
        prompts: questions asked.
        unchanged: answers that are the base's word for word.
        examples: those that changed most, each with ``prompt``, ``before`` and ``after``.
    """

    kind: Literal["retention"] = "retention"
    step: Step
    kept: float
    prompts: int
    unchanged: int
    examples: list[dict[str, str]]


class PinnedAnswer(BaseModel):
    """What was answered to a pinned prompt; None where that one was not, or could not be, asked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str
    base: str | None
    tuned: str | None


class PinnedEvent(Event):
    """The pinned prompts, answered at a step; at step 0 by the base alone."""

    kind: Literal["pinned"] = "pinned"
    step: Step
    answers: list[PinnedAnswer]


class MemoryEvent(Event):
    """What the trainer's process took of its GPU, in bytes, beside its context and weights that others may map.

    Attributes:
        planned: what was expected, by part; see `training.plan.forecast`.
        allocated: the most that tensors took at a time.
        reserved: the most that torch's allocator held for them.
        steps: after which this was read.
    """

    kind: Literal["memory"] = "memory"
    planned: dict[str, int]
    allocated: int
    reserved: int
    steps: int


class MessageEvent(Event):
    """Something a person should know, in English and Chinese."""

    kind: Literal["message"] = "message"
    en: str
    zh: str


class EndedEvent(Event):
    """Training is over; ``step`` is the last one done."""

    step: Step
    en: str
    zh: str


class FinishedEvent(EndedEvent):
    """All steps are done and saved."""

    kind: Literal["finished"] = "finished"


class StoppedEvent(EndedEvent):
    """Somebody asked it to stop; the last step is saved."""

    kind: Literal["stopped"] = "stopped"


class FailedEvent(EndedEvent):
    """It could not go on; the message says why."""

    kind: Literal["failed"] = "failed"


_RECORD: TypeAdapter[Event] = TypeAdapter(
    Annotated[
        PhaseEvent
        | StartedEvent
        | StepEvent
        | CheckpointEvent
        | EvaluationEvent
        | RetentionEvent
        | PinnedEvent
        | MemoryEvent
        | MessageEvent
        | FinishedEvent
        | StoppedEvent
        | FailedEvent,
        Field(discriminator="kind"),
    ]
)


def append_event(path: Path, event: Event) -> None:
    """Add ``event`` to the file, whole and flushed; a torn line that a killed writer left behind is closed first."""
    line = json.dumps({"kind": event.kind, **event.model_dump()}, ensure_ascii=False) + "\n"
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
    events: list[Event] = []
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            position = file.seek(offset if offset <= size else 0)
            while chunk := file.read(CHUNK_BYTES):
                complete = chunk.rfind(b"\n") + 1
                if not complete and len(chunk) == CHUNK_BYTES:  # no record is that long
                    complete = len(chunk)
                events.extend(event for line in chunk[:complete].splitlines() if (event := _parse(line)) is not None)
                if not complete:
                    break
                position = file.seek(position + complete)
    except OSError:
        return [], 0
    return events, position


EventT = TypeVar("EventT", bound=Event)


def last_event(events: Iterable[Event], kind: type[EventT]) -> EventT | None:
    """The latest event of ``kind``."""
    return next((event for event in reversed(list(events)) if isinstance(event, kind)), None)


def current_phase(events: Iterable[Event]) -> Phase | None:
    """What a run is doing that has taken no step yet since it began or went on; None for one that has, or has ended."""
    for event in reversed(list(events)):
        if isinstance(event, PhaseEvent):
            return event.phase
        if isinstance(event, StepEvent | EndedEvent):
            return None
    return None


PointT = TypeVar("PointT", StepEvent, EvaluationEvent, RetentionEvent, PinnedEvent)


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
        return _RECORD.validate_json(line)
    except ValidationError:
        return None


def is_collapsed(loss: float) -> bool:
    """Whether a loss shows that training has broken down: not a number, infinite, or exactly 0."""
    return not math.isfinite(loss) or loss == 0.0
