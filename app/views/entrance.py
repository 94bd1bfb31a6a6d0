"""What a visitor sees who may not do everything: the note with the key's field, and the page to sign in."""

from __future__ import annotations

from markupsafe import Markup

from app.door.door import Remedy, Visitor
from app.text.languages import Speech
from app.views.markup import render
from app.views.theme import STYLES


def key_notice(visitor: Visitor, speech: Speech) -> Markup:
    """A sentence that says what is closed, and a field where a key would open it."""
    asks = visitor.remedy is Remedy.KEY
    sentence = speech("needs_key" if asks else "viewer_only")
    return render("key_notice", sentence=sentence, asks=asks, label=speech("operator_key"), button=speech("unlock"))


def sign_in_page(speech: Speech, problem: str = "") -> str:
    """A page of its own that works without a script."""
    return render(
        "sign_in",
        language=speech.pick("en", "zh-CN"),
        style=Markup((STYLES / "sign_in.css").read_text(encoding="utf-8")),
        problem=problem,
        title=speech("sign_in_title"),
        name=speech("sign_in_name"),
        password=speech("sign_in_password"),
        button=speech("sign_in_button"),
    )
