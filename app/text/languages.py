"""Two languages: the page's fixed words through Gradio, everything the server writes through :func:`say`.

Gradio translates labels in the browser, by ``navigator.language``. What a handler writes (HTML, messages) is translated
here, by the cookie that the page's head script sets before Gradio starts; so both always speak the same language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.text.words import WORDS

LANGUAGES = ("zh", "en")
LANGUAGE_COOKIE = "chatglm-language"


@dataclass(frozen=True)
class Speech:
    """Speaks one language: ``speech("send")`` gives the words for ``send``."""

    language: str = "en"

    def __call__(self, key: str, **values: Any) -> str:
        en, zh = WORDS[key]
        return (zh if self.language == "zh" else en).format(**values)

    def pick(self, en: str, zh: str) -> str:
        """Chooses between two ready-made texts, such as a setting's help."""
        return zh if self.language == "zh" else en


def language_of(cookies: Mapping[str, str], headers: Mapping[str, str], default: str | None = None) -> str:
    """The language of a request: the page's cookie, else ``default``, else what the browser accepts first."""
    chosen = cookies.get(LANGUAGE_COOKIE, default)
    if chosen in LANGUAGES:
        return chosen
    accepted = headers.get("accept-language", "").strip().lower()
    return "zh" if accepted.startswith("zh") else "en"


def speech_for(request: gr.Request | None) -> Speech:
    """The speech of whoever sent ``request``."""
    if request is None:
        return Speech()
    return Speech(language_of(request.cookies, request.headers))


def build_i18n(extra: Mapping[str, tuple[str, str]] | None = None) -> gr.I18n:
    """Gradio's translations: our words, and ``extra`` pairs of (English, Chinese) such as the settings' help."""
    words = {**WORDS, **(extra or {})}
    return gr.I18n(
        en={key: en for key, (en, _) in words.items()},
        zh={key: zh for key, (_, zh) in words.items()},
    )


def word(key: str) -> Any:
    """A placeholder that the browser replaces with the words for ``key``."""
    return gr.I18n()(key)
