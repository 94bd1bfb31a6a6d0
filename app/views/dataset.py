"""A data file at a glance: how many rows, which columns of them are used, and how long they are.

Pure: a report in, escaped HTML out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.text.languages import Speech
from app.training.service import Trial
from app.views.charts import histogram
from app.views.markup import render
from training.data.summary import DatasetReport, LengthReport

CELL_CHARACTERS = 120


@dataclass(frozen=True)
class LengthFigure:
    """How long the texts of a column are: a title, what would be cut, and the chart."""

    title: str
    note: str
    chart: Markup


def dataset_html(report: DatasetReport, speech: Speech) -> Markup:
    """The report for people."""
    counts = [
        speech("data_counts", rows=f"{report.rows:,}"),
        speech("data_read_as", form=speech.pick(*report.read_as)),
    ]
    if report.dropped:
        counts.append(speech("data_skipped", count=report.dropped))
    return render(
        "dataset",
        counts=" · ".join((*counts, f"{report.columns.prompt} → {report.columns.response}")),
        figures=[
            _length_figure(report.source_tokens, speech("prompt_lengths"), speech),
            _length_figure(report.target_tokens, speech("answer_lengths"), speech),
        ],
    )


def trials_html(trials: Sequence[Trial], speech: Speech) -> Markup:
    """Rows with what a model answers now, beside the answers that the data has."""
    columns = speech("tried_answer"), speech("tried_wanted")
    shown = [Trial(_shortened(trial.prompt), trial.answer, _shortened(trial.wanted)) for trial in trials]
    return render("trials", columns=columns, trials=shown)


def _length_figure(report: LengthReport, title: str, speech: Speech) -> LengthFigure:
    share = f"{report.over_limit / report.measured:.1%}"
    note = speech("truncated_share", share=share, limit=report.limit)
    if not report.over_limit:
        note = speech("none_truncated", limit=report.limit)
    return LengthFigure(title, note, histogram(report.histogram.edges, report.histogram.counts, report.limit, title))


def _shortened(cell: str) -> str:
    return cell if len(cell) <= CELL_CHARACTERS else f"{cell[:CELL_CHARACTERS]}…"
