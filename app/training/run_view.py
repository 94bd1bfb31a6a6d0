"""A run at one moment: its state, its measurements, what it last said. Read from the run's files, drawn elsewhere.

Knows ``training``'s events and run directories. Knows neither Gradio nor how anything looks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatglm2.errors import RunError
from training.runs.checkpoints import CheckpointInfo
from training.runs.events import (
    EndedEvent,
    EvaluationEvent,
    Event,
    MessageEvent,
    Phase,
    PinnedEvent,
    RetentionEvent,
    StartedEvent,
    StepEvent,
    current_phase,
    is_collapsed,
    last_event,
    point_history,
    step_history,
)
from training.runs.pins import read_pins
from training.runs.store import Run, Status
from training.settings.train import Share

LOG_LINES = 200


@dataclass(frozen=True)
class Measurement:
    """What was measured at a step."""

    step: int
    value: float


@dataclass(frozen=True)
class RunView:
    """A run at one moment, as the page shows it."""

    name: str
    status: Status
    phase: Phase | None = None  # what it does before its first step
    step: int = 0
    total_steps: int = 0
    seconds_left: float | None = None
    latest: StepEvent | None = None
    losses: tuple[Measurement, ...] = ()
    validation: tuple[Measurement, ...] = ()  # losses
    learning_rates: tuple[Measurement, ...] = ()
    gradient_norms: tuple[Measurement, ...] = ()
    speeds: tuple[Measurement, ...] = ()  # tokens a second
    scores: Mapping[str, float] = field(default_factory=dict)  # of the last validation, by name
    kept: tuple[Measurement, ...] = ()  # of the base model's general answers, from 0 to 100
    retention: RetentionEvent | None = None
    keeps_best: bool = False
    share: Share | None = None  # of a run that is being trained
    message: tuple[str, str] | None = None  # English, Chinese
    checkpoints: tuple[CheckpointInfo, ...] = ()
    log: str = ""
    events: tuple[Event, ...] = ()  # all but the curve's points
    pinned: tuple[PinnedEvent, ...] = ()  # answers by step
    pins: tuple[str, ...] = ()  # prompts that are answered from now on
    trains_all_weights: bool = False

    @property
    def can_resume(self) -> bool:
        return self.status in (Status.STOPPED, Status.FAILED, Status.INTERRUPTED)

    @property
    def collapsed(self) -> bool:
        return self.latest is not None and is_collapsed(self.latest.loss)

    @property
    def offered_checkpoint(self) -> CheckpointInfo | None:
        """The prefix to try: the newest, or when all is done the best, if that was to be kept.

        A pane answers with prefixes only; a run that trained the whole model offers nothing.
        """
        prefixes = [info for info in self.checkpoints if info.is_prefix]
        best = next((info for info in prefixes if info.is_best), None)
        if best is not None and self.keeps_best and not self.status.is_active:
            return best
        return max(prefixes, key=lambda info: info.step, default=None)


@dataclass
class RunFeed:
    """The events of one run that were read so far; a viewer's tick reads only what is new."""

    created_at: float = 0.0  # of the run that was read: another one may have taken its place since
    offset: int = 0
    events: list[Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, run: Run) -> list[Event]:
        with self.lock:
            created_at = run.created_at()
            is_other = created_at != self.created_at
            new, offset = run.events(0 if is_other else self.offset)
            if is_other or offset < self.offset:
                self.events = []
            self.created_at = created_at
            self.offset = offset
            self.events.extend(new)
            return list(self.events)


def read_view(run: Run, events: list[Event]) -> RunView:
    """How ``run`` is doing, by its files and by ``events``, which were read from them."""
    steps, validations = step_history(events), point_history(events, EvaluationEvent)
    kept = point_history(events, RetentionEvent)
    state, latest = run.state(), steps[-1] if steps else None
    started = last_event(events, StartedEvent)
    total = latest.total_steps if latest else started.total_steps if started else 0
    return RunView(
        name=run.name,
        status=state.status,
        phase=current_phase(events) if state.status.is_active else None,
        step=latest.step if latest else 0,
        total_steps=total,
        seconds_left=latest.seconds_left if latest else None,
        latest=latest,
        losses=tuple(Measurement(event.step, event.loss) for event in steps),
        validation=tuple(
            Measurement(event.step, event.metrics["loss"]) for event in validations if "loss" in event.metrics
        ),
        learning_rates=tuple(Measurement(event.step, event.learning_rate) for event in steps),
        gradient_norms=tuple(Measurement(event.step, event.gradient_norm) for event in steps),
        speeds=tuple(Measurement(event.step, event.tokens_per_second) for event in steps),
        scores=validations[-1].metrics if validations else {},
        kept=tuple(Measurement(event.step, event.kept) for event in kept),
        retention=kept[-1] if kept and kept[-1].step else None,
        keeps_best=run.keeps_best(),
        share=run.share() if state.status.is_active else None,
        message=(state.message_en, state.message_zh) if state.message_en else _message(events, state.status),
        checkpoints=tuple(run.checkpoints()),
        log=run.log_tail(LOG_LINES),
        events=tuple(event for event in events if not isinstance(event, StepEvent)),
        pinned=tuple(point_history(events, PinnedEvent)),
        pins=tuple(read_pins(run)),
        trains_all_weights=_trains_all_weights(run),
    )


def _trains_all_weights(run: Run) -> bool:
    try:
        return run.settings().trains_all_weights
    except RunError:  # nothing trains with such settings
        return False


def _message(events: list[Event], status: Status) -> tuple[str, str] | None:
    """The last thing the run said, unless it has started anew since. How it ended once is no news while it trains."""
    for event in reversed(events):
        if isinstance(event, StartedEvent) or (isinstance(event, EndedEvent) and status.is_active):
            return None
        if isinstance(event, MessageEvent | EndedEvent):
            return event.en, event.zh
    return None
