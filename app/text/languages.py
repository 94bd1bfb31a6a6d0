"""Two languages, and which of them a request is answered in.

What the server writes (HTML, messages) is spoken by a `Speech`, in the language of the cookie that the page's head
script sets. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
