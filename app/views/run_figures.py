"""What a run's measurements look like: its curves, what is left of the base model's answers, what to try.

Pure: a `RunView` in, escaped HTML out.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.text.languages import Speech
from app.training.run_view import Measurement, RunView
from app.views.charts import Point, format_number, line_chart
from app.views.fragments import escape, sentence_html

SHOWN_CHARACTERS = 60
RETENTION_HEIGHT = 150


def loss_html(view: RunView, speech: Speech) -> str:
    """The loss, with the validation's where there is one."""
    chart = line_chart(
        _points(view.losses),
        view.total_steps,
        speech("loss_curve"),
        speech("no_points"),
        measured=_points(view.validation),
    )
    if not view.validation:
        return chart
    scores = " · ".join(f"{name} {format_number(value)}" for name, value in view.scores.items() if name != "loss")
    note = escape(speech("validation_loss", loss=format_number(view.validation[-1].value)))
    return f'<p class="legend"><i></i>{note}{escape(" · " + scores) if scores else ""}</p>{chart}'


def retention_html(view: RunView, speech: Speech) -> str:
    """How much of the base model's general answers is left, over the steps, and the one that changed most."""
    latest = view.retention
    if latest is None:
        return ""
    title = speech("kept", share=f"{latest.kept:.0f}")
    same = speech("kept_same", same=latest.unchanged, count=latest.prompts)
    chart = line_chart(_points(view.kept), view.total_steps, title, "", ceiling=100, height=RETENTION_HEIGHT)
    example = ""
    if latest.examples:
        cells = {name: _shortened(text) for name, text in latest.examples[0].items()}
        example = f"<p>{escape(speech('kept_example', **cells))}</p>"
    return (
        f'<figure class="retention"><figcaption><b>{escape(title)}</b> <span>{escape(same)}</span></figcaption>{chart}'
        f"{example}<p>{escape(speech('kept_help'))}</p></figure>"
    )


def ready_html(view: RunView, speech: Speech) -> str:
    """Which checkpoint to try."""
    offered = view.offered_checkpoint
    if offered is None:
        return ""
    key = "checkpoint_best" if offered.is_best else "checkpoint_ready"
    return sentence_html(speech(key, step=offered.step), "plain")


def _points(measurements: Iterable[Measurement]) -> list[Point]:
    return [Point(measurement.step, measurement.value) for measurement in measurements]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"
