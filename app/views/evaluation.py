"""An evaluation as HTML: how far it is, who scored what, the picture, and the rows behind it.

Pure. Knows under which path results are asked for, not how they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlencode

from markupsafe import Markup

from app.evaluation.service import EvaluationView
from app.text.languages import Speech
from app.views.markup import format_duration, percent_of, render
from training.comparison.figures import kept_measures, picture, score_bars
from training.comparison.place import Progress, Status
from training.comparison.result import SAME_BELOW, ComparedRow, Comparison
from training.comparison.sheets import probe_sheets
from training.comparison.words import WORDS
from training.evaluation.reporting.report import METRIC_NAMES

EVALUATION_PATH = "download-evaluation"
SHOWN_ROWS = 100  # a browser shows more slowly; the files have all
ALL, WORST, IMPROVED = "all", "worst", "improved"
Order = Callable[[ComparedRow, int], float]
ORDERS: Mapping[str, Order] = MappingProxyType(
    {
        "by_number": lambda row, _place: row.number,
        "by_gain_down": lambda row, place: -row.gain(place),
        "by_gain_up": lambda row, place: row.gain(place),
        "by_score_down": lambda row, place: -row.answers[place].rouge_l,
        "by_score_up": lambda row, place: row.answers[place].rouge_l,
    }
)


def progress_html(view: EvaluationView, speech: Speech) -> Markup:
    """Its state, a bar, how much time is left, and what it last said."""
    progress = view.progress
    is_bad = progress.status in (Status.FAILED, Status.INTERRUPTED)
    message = speech.pick(progress.message_en, progress.message_zh)
    if progress.status in (Status.STOPPED, Status.INTERRUPTED):
        message = speech("evaluation_can_go_on")
    fraction = progress.done / progress.total if progress.total else None
    return render(
        "run",
        status=progress.status,
        status_name=speech(f"evaluation_{progress.status}"),
        facts=" · ".join(_facts(progress, speech)),
        percent=percent_of(fraction if fraction or not progress.status.is_active else None),
        bar_label=speech("progress"),
        numbers=[],
        message=message,
        message_kind="failed" if is_bad else "",
    )


def _facts(progress: Progress, speech: Speech) -> list[str]:
    facts = [speech("answered_of", done=progress.done, total=progress.total)] if progress.total else []
    left = progress.seconds_left
    if progress.status.is_active and left is not None:
        facts.append(speech("time_left", duration=format_duration(left, speech)))
    return facts


def scores_html(name: str, comparison: Comparison, files: Sequence[str], speech: Speech, *, may_change: bool) -> Markup:
    """Who scored what, the task against what is kept, and the files to take away."""
    links = [(f"{EVALUATION_PATH}?{urlencode({'name': name, 'file': file})}", file) for file in files]
    return render(
        "evaluation_scores",
        comparison=comparison,
        names=contestant_names(comparison, speech),
        metrics=METRIC_NAMES if comparison.rows else {},
        bars=score_bars(comparison, speech.language),
        pictures=[picture(comparison, measure, speech.language) for measure in kept_measures(comparison)],
        sheets=probe_sheets(comparison, speech.language),
        word=_words(speech),
        links=links if may_change else [],
    )


def rows_html(comparison: Comparison, place: int, listed: str, order: str, search: str, speech: Speech) -> Markup:
    """The rows of one contender beside the base's: all, its worst or its most improved, those with ``search`` in them.

    ``order`` is a key of `ORDERS`; the two short lists keep their own order where it is by number.
    """
    chosen = {WORST: comparison.worst, IMPROVED: comparison.improved}.get(listed)
    rows = list(comparison.rows) if chosen is None else chosen(place)
    total = len(rows)
    wanted = search.strip().casefold()
    if wanted:
        rows = [row for row in rows if wanted in _text_of(row)]
    if chosen is None or order != "by_number":
        rows.sort(key=lambda row: ORDERS[order](row, place))
    return render(
        "evaluation_rows",
        rows=rows[:SHOWN_ROWS],
        place=place,
        names=contestant_names(comparison, speech),
        found=speech("rows_found", shown=min(len(rows), SHOWN_ROWS), total=total),
        change=_change,
        open_title=speech("open_in_compare"),
        word=_words(speech),
    )


def contestant_names(comparison: Comparison, speech: Speech) -> list[str]:
    """Everybody's name, the base's in the reader's language."""
    return [item.name or speech.pick(*WORDS["base"]) for item in comparison.contestants]


def _change(value: float) -> tuple[str, str]:
    """A difference's class and how it is written."""
    if abs(value) < SAME_BELOW:
        return "same", "0"
    return "better" if value > 0 else "worse", f"{value:+.2f}".replace("-", "−")


def _text_of(row: ComparedRow) -> str:
    return "\n".join((row.prompt, row.reference, *(answer.text for answer in row.answers))).casefold()


def _words(speech: Speech) -> Callable[..., str]:
    def word(key: str, **values: object) -> str:
        return speech.pick(*WORDS[key]).format(**values)

    return word
