"""A conversation as one HTML page that needs nothing else: no script, no font, no network.

Knows the page's form. What a reply may hold is :mod:`app.views.rendering`'s business.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import datetime

from app.chat.conversation import PANES, Answer, Conversation
from app.text.languages import Speech
from app.views.fragments import answer_facts
from app.views.rendering import reply_html
from training.evaluation.standalone_page import standalone_page


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
    rounds = "\n".join(
        f'<section><div class="question">{html.escape(entry.question)}</div><div class="pair">'
        + "".join(_answer(entry.answers[pane], speech) for pane in PANES)
        + "</div></section>"
        for entry in conversation.rounds
    )
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in settings.items())
    title = f"{speech('export_title')} · {model_name}"
    written = f'<time datetime="{now.isoformat(timespec="seconds")}">{now:%Y-%m-%d %H:%M}</time>'
    return standalone_page(title, speech.language, stylesheet, f"{written}\n<dl>{facts}</dl>", rounds)


def _answer(answer: Answer, speech: Speech) -> str:
    body = f'<p class="failed">{html.escape(answer.error)}</p>' if answer.error else reply_html(answer.text)
    chip = f'<div class="chip">{html.escape(answer.source)}</div>' if answer.source else ""
    return (
        f'<article>{chip}<div class="body">{body}</div>'
        f"<footer>{html.escape(answer_facts(answer, speech))}</footer></article>"
    )
