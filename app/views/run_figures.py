"""What a run looks like: how far it is, its curves, what is left of the base model's answers, what to try.

Pure: a `RunView` in, escaped HTML out.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from app.text.languages import Speech
from app.training.run_view import Measurement, RunView
from app.views.charts import Names, Point, format_number, line_chart
from app.views.fragments import sentence_html
from app.views.markup import format_duration, percent_of, render
from training.runs.events import PHASE_WORDS
from training.runs.store import Status

SHOWN_CHARACTERS = 60
SMALL_HEIGHT = 180


def run_html(view: RunView, speech: Speech) -> Markup:
    """How a run is doing: its bar, the numbers, and what it last said."""
    fraction = view.step / view.total_steps if view.total_steps else 0.0
    message, kind = _message(view, speech)
    return render(
        "run",
        status=view.status,
        status_name=speech(f"status_{view.status}"),
        facts=" · ".join(_progress_facts(view, speech)),
        percent=percent_of(fraction if fraction or not view.status.is_active else None),
        bar_label=speech("progress"),
        numbers=_numbers(view, speech),
        message=message,
        message_kind=kind,
    )


def loss_html(view: RunView, speech: Speech) -> Markup:
    """The loss, with the validation's where there is one."""
    chart = line_chart(
        _points(view.losses),
        view.total_steps,
        speech("loss_curve"),
        speech("no_points"),
        names=_names("loss", speech),
        measured=_points(view.validation),
        smooth=True,
    )
    note = speech("curve_legend") if view.losses else ""
    if view.validation:
        scores = (f"{name} {format_number(value)}" for name, value in view.scores.items() if name != "loss")
        note = " · ".join((speech("validation_loss", loss=format_number(view.validation[-1].value)), *scores))
    return render("curve", title=speech("loss_curve"), chart=chart, note=note, is_dotted=bool(view.validation))


def more_curves_html(view: RunView, speech: Speech) -> Markup:
    """What the optimizer and the machine did: the learning rate, the gradient's norm and the speed."""
    curves = {
        "learning_rate": (view.learning_rates, False),
        "gradient_norm": (view.gradient_norms, True),
        "tokens_per_second": (view.speeds, True),
    }
    return Markup().join(
        render(
            "curve",
            title=speech(name),
            chart=line_chart(
                _points(measured),
                view.total_steps,
                speech(name),
                speech("no_points"),
                names=_names(name, speech),
                smooth=smooth,
                height=SMALL_HEIGHT,
            ),
            note="",
            is_dotted=False,
        )
        for name, (measured, smooth) in curves.items()
    )


def retention_html(view: RunView, speech: Speech) -> str:
    """How much of the base model's general answers is left, over the steps, and the one that changed most."""
    latest = view.retention
    if latest is None:
        return ""
    title = speech("kept", share=f"{latest.kept:.0f}")
    example = ""
    if latest.examples:
        changed = latest.examples[0]
        texts = {name: _shortened(changed.get(name, "")) for name in ("prompt", "before", "after")}
        example = speech("kept_example", **texts)
    return render(
        "retention",
        title=title,
        same=speech("kept_same", same=latest.unchanged, count=latest.prompts),
        chart=line_chart(
            _points(view.kept),
            view.total_steps,
            title,
            "",
            names=_names("kept_axis", speech),
            ceiling=100,
            height=SMALL_HEIGHT,
        ),
        example=example,
        help=speech("kept_help"),
    )


def ready_html(view: RunView, speech: Speech) -> str:
    """Which checkpoint to try."""
    offered = view.offered_checkpoint
    if offered is None:
        return ""
    key = "checkpoint_best" if offered.is_best else "checkpoint_ready"
    return sentence_html(speech(key, step=offered.step), "plain")


def _progress_facts(view: RunView, speech: Speech) -> list[str]:
    phase = [speech.pick(*PHASE_WORDS[view.phase])] if view.phase else []
    facts = [speech("progress_steps", step=view.step, total=view.total_steps)] if view.total_steps else []
    if view.status.is_active and view.seconds_left is not None:
        facts.append(speech("time_left", duration=format_duration(view.seconds_left, speech)))
    return phase + facts


def _numbers(view: RunView, speech: Speech) -> list[tuple[str, str]]:
    if view.latest is None:
        return []
    return [
        (speech("loss"), format_number(view.latest.loss)),
        (speech("learning_rate"), format_number(view.latest.learning_rate)),
        (speech("step_time"), f"{view.latest.seconds_per_step:.2f} s"),
    ]


def _message(view: RunView, speech: Speech) -> tuple[str, str]:
    """What a run has to say, and how that looks."""
    if view.message is not None:
        is_bad = view.status in (Status.FAILED, Status.INTERRUPTED, Status.SILENT)
        return speech.pick(*view.message), "failed" if is_bad else ""
    return (speech("collapsed"), "failed") if view.collapsed else ("", "")


def _names(up: str, speech: Speech) -> Names:
    return Names(across=speech("step_axis"), up=speech(up))


def _points(measurements: Iterable[Measurement]) -> list[Point]:
    return [Point(measurement.step, measurement.value) for measurement in measurements]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"
