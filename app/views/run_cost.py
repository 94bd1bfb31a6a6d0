"""What a run would cost, as the page shows it beside the button that starts it.

Pure: a `RunCost` in, escaped HTML out.
"""

from __future__ import annotations

from markupsafe import Markup

from app.text.languages import Speech
from app.training.cost import RunCost
from app.views.markup import format_bytes, format_duration, render

# Starting, before the first step.
START_SECONDS = 6.0


def cost_html(cost: RunCost, speech: Speech) -> Markup:
    """Seconds a step, the whole time, memory, and what chat keeps; or why it would not start."""
    refusal = speech.pick(cost.refusal.en, cost.refusal.zh) if cost.refusal else ""
    note = speech("cost_measured" if cost.pace.measured else "cost_rough")
    return render("cost", figures=_figures(cost, speech), note=note, refusal=refusal)


def _figures(cost: RunCost, speech: Speech) -> list[tuple[str, str]]:
    pace = cost.pace
    seconds = format_seconds(pace.seconds_per_step)
    duration = format_duration(pace.seconds + START_SECONDS, speech)
    figures = [
        (speech("cost_time"), speech("cost_step" if pace.measured else "cost_step_about", seconds=seconds)),
        (speech("cost_total"), duration if pace.measured else speech("cost_about", what=duration)),
    ]
    if cost.memory is not None:
        needed, free = format_bytes(cost.memory.total), format_bytes(cost.memory.free)
        figures.append((speech("cost_memory_name"), speech("cost_memory", needed=needed, free=free)))
    chat = [speech(f"cost_share_{cost.share}")]
    if cost.chat_tokens is not None:
        chat.append(speech("cost_chat_tokens", tokens=f"{cost.chat_tokens:,}"))
    return [*figures, (speech("cost_chat"), " · ".join(chat))]


def format_seconds(seconds: float) -> str:
    """Two digits that count."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
