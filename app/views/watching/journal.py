"""What a run did, in a reader's language: its events as lines, and below them what its libraries logged, as they did.

Knows events and words. Steps are the curves' business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from app.text.languages import Speech
from app.views.charts import format_number
from app.views.markup import render
from training.runs.events import (
    PHASE_WORDS,
    CheckpointEvent,
    EndedEvent,
    EvaluationEvent,
    Event,
    MessageEvent,
    PhaseEvent,
    PinnedEvent,
    RetentionEvent,
    StartedEvent,
)

SHOWN_LINES = 200


def journal_html(events: Sequence[Event], log: str, speech: Speech) -> Markup:
    """The newest lines of ``events`` with the time of each, and ``log`` folded away."""
    told = [(event.time, sentence) for event in events if (sentence := _sentence(event, speech))]
    lines = [f"{time.strftime('%H:%M:%S', time.localtime(when))}  {sentence}" for when, sentence in told[-SHOWN_LINES:]]
    text = "\n".join(lines) or speech("no_log")
    return render("log", text=text, log=log, log_title=speech("technical_log"))


def _sentence(event: Event, speech: Speech) -> str:
    """One event as a line; empty where another part of the page shows it."""
    match event:
        case PhaseEvent():
            return speech.pick(*PHASE_WORDS[event.phase])
        case StartedEvent():
            return speech("journal_started", step=event.step, total=event.total_steps, device=event.device)
        case CheckpointEvent():
            return speech("journal_saved", name=event.name)
        case EvaluationEvent():
            scores = ", ".join(f"{name} {format_number(value)}" for name, value in event.metrics.items())
            return speech("journal_validated", step=event.step, scores=scores)
        case RetentionEvent():
            return speech("journal_kept", step=event.step, unchanged=event.unchanged, prompts=event.prompts)
        case PinnedEvent():
            return speech("journal_pinned", step=event.step, count=len(event.answers))
        case MessageEvent() | EndedEvent():
            return speech.pick(event.en, event.zh)
        case _:
            return ""
