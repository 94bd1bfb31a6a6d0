"""Several answers to one question, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from app.chat.conversation import Answer
from app.text.languages import Speech
from app.views.chat_view import answer_facts
from app.views.markup import render


def samples_html(answers: Sequence[Answer], speech: Speech) -> Markup:
    """A column an answer, as plain text; nothing where there are none."""
    shown = [
        {
            "source": answer.source,
            "text": answer.text or "…",
            "error": answer.error,
            "facts": answer_facts(answer, speech),
        }
        for answer in answers
    ]
    return render("samples", answers=shown, title=speech("samples_of", count=len(shown)) if shown else "")
