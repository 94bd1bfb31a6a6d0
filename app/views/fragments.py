"""Small pieces of HTML that the page fills in while it runs: sentences, the status line, the banner, a log.

Pure: values in, escaped HTML out. Looks are the stylesheet's business (``assets/styles/page.css``).
"""

from __future__ import annotations

from markupsafe import Markup

from app.chat.model_host import LoadingState
from app.machine import Memory
from app.text.languages import Speech
from app.views.markup import format_bytes, percent_of, render


def sentence_html(sentence: str, kind: str = "") -> Markup:
    """A sentence in a box; ``kind`` says how it looks."""
    return render("sentence", text=sentence, kind=kind)


def status_line(
    *,
    device: str,
    memory: Memory,
    model_name: str,
    context_tokens: int | None,
    training: str,
    speech: Speech,
) -> Markup:
    """The line under the title: where it runs, what it holds, what is in training."""
    used, free = format_bytes(memory.used), format_bytes(memory.free)
    cells = [
        (speech("status_device"), device),
        (speech("status_memory"), speech("memory_used_free", used=used, free=free)),
        (speech("status_model"), model_name),
        (speech("status_context"), speech("tokens", count=context_tokens) if context_tokens else "—"),
        (speech("status_training"), training),
    ]
    return render("status", cells=cells)


def loading_banner(state: LoadingState, model_name: str, speech: Speech) -> str:
    """Shown until the model is ready: how far loading is, or why it failed."""
    if state.phase == "ready":
        return ""
    if state.error is not None:
        return render("banner", failed=speech("model_failed"), text=state.error.localized(speech.language))
    text = _loading_sentence(state, model_name, speech)
    return render("banner", failed="", text=text, percent=percent_of(state.fraction))


def _loading_sentence(state: LoadingState, model_name: str, speech: Speech) -> str:
    if state.phase == "downloading":
        received, total = format_bytes(state.done_bytes), format_bytes(state.total_bytes)
        return speech("model_downloading", name=model_name, received=received, total=total)
    sentences = {"preparing": "model_preparing", "restarting": "model_restarting"}
    return speech(sentences.get(state.phase, "model_loading"), name=model_name)
