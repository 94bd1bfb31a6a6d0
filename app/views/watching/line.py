"""Runs that wait in line, and what came out of those that were made together."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from app.text.languages import Speech
from app.training.sweeps import SweptRun, best_of
from app.views.charts import format_number
from app.views.markup import format_duration, render


def line_html(names: Sequence[str], speech: Speech, *, may_change: bool = True) -> str:
    """Who waits, the next first, each with a button that takes it out; nothing where nobody waits."""
    if not names:
        return ""
    return render(
        "line",
        title=speech("line_title", count=len(names)),
        names=names,
        take_out=speech("take_out") if may_change else "",
        take_out_of=[speech("take_out_of", run=name) for name in names],
    )


def sweep_html(rows: Sequence[SweptRun], speech: Speech) -> Markup:
    """A run a line: its settings, its losses, its scores."""
    scores = list(dict.fromkeys(name for row in rows for name in row.scores))
    titles = ("sweep_settings", "sweep_status", "loss", "sweep_validation", "sweep_time", "sweep_checkpoint")
    best = best_of(rows)
    return render(
        "sweep",
        titles=[*map(speech, titles), *scores],
        rows=[(row.settings, row.name, row is best, _cells(row, scores, speech)) for row in rows],
        best=speech("sweep_best"),
        note=speech("sweep_note"),
    )


def _cells(row: SweptRun, scores: Sequence[str], speech: Speech) -> list[str]:
    progress = f" {row.step}/{row.total_steps}" if row.status.is_active and row.total_steps else ""
    return [
        speech(f"status_{row.status}") + progress,
        _number(row.loss),
        _number(row.validation_loss),
        "–" if row.seconds is None else format_duration(row.seconds, speech),
        "–" if row.checkpoint is None else speech("chip_step", step=row.checkpoint),
        *(_number(row.scores.get(name)) for name in scores),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else format_number(value)
