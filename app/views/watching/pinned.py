"""Answers to pinned prompts: the base's beside the prefix's."""

from __future__ import annotations

from markupsafe import Markup

from app.text.languages import Speech
from app.views.fragments import sentence_html
from app.views.markup import render
from training.runs.events import PinnedEvent


def pinned_html(event: PinnedEvent | None, speech: Speech, *, all_weights: bool = False) -> Markup:
    """What was answered at a step, or a sentence where nothing was asked yet."""
    if event is None:
        return sentence_html(speech("pinned_later"), "empty")
    return render(
        "pinned",
        step=speech("chip_step", step=event.step),
        columns=(speech("pinned_base"), speech("pinned_all_weights" if all_weights else "pinned_tuned")),
        rows=[(item.prompt, item.base or "—", item.tuned or "—") for item in event.answers],
    )
