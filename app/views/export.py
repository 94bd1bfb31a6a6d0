"""A conversation as one HTML page that needs nothing else: no script, no font, no network.

Knows the page's form. What a reply may hold is :mod:`app.views.rendering`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from app.chat.conversation import PANES, Answer, Conversation
from app.text.languages import Speech
from app.views.chat_view import answer_facts
from app.views.markup import render
from app.views.rendering import reply_html
from training.evaluation.reporting.standalone_page import standalone_page


@dataclass(frozen=True)
class ExportedAnswer:
    source: str
    error: str
    body: Markup
    facts: str


def export_page(
    conversation: Conversation,
    *,
    settings: Mapping[str, str],
    model_name: str,
    now: datetime,
    stylesheet: str,
    speech: Speech,
) -> str:
    """The whole conversation, both panes side by side, with who answered, the settings and the date."""
    rounds = [
        {"question": entry.question, "answers": [_answer(entry.answers[pane], speech) for pane in PANES]}
        for entry in conversation.rounds
    ]
    header = render(
        "export_header",
        written=now.isoformat(timespec="seconds"),
        shown=f"{now:%Y-%m-%d %H:%M}",
        settings=settings.items(),
    )
    title = f"{speech('export_title')} · {model_name}"
    return standalone_page(title, speech.language, stylesheet, header, render("export_rounds", rounds=rounds))


def _answer(answer: Answer, speech: Speech) -> ExportedAnswer:
    return ExportedAnswer(answer.source, answer.error, reply_html(answer.text), answer_facts(answer, speech))
