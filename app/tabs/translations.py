"""The page's words where Gradio shows them: labels that the browser translates, and the speech of a request.

Gradio translates labels by ``navigator.language``, which the page's head script sets before Gradio starts,
together with the cookie that `app.text.languages` reads; so both always speak the same language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from app.text.languages import Speech, language_of
from app.text.words import WORDS

# Gradio translates every value that equals a key: a run called "best", a choice "loss". So no key looks like a value.
KEY = "⟦{}⟧"


def speech_for(request: gr.Request | None) -> Speech:
    """The speech of whoever sent ``request``."""
    if request is None:
        return Speech()
    return Speech(language_of(request.cookies, request.headers))


def build_i18n(extra: Mapping[str, tuple[str, str]] | None = None) -> gr.I18n:
    """Gradio's translations: our words, and ``extra`` pairs of (English, Chinese) such as the settings' help."""
    words = {**WORDS, **(extra or {})}
    return gr.I18n(
        en={KEY.format(key): en for key, (en, _) in words.items()},
        zh={KEY.format(key): zh for key, (_, zh) in words.items()},
    )


def word(key: str) -> Any:
    """A placeholder that the browser replaces with the words for ``key``."""
    return gr.I18n()(KEY.format(key))
