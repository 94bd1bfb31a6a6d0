"""A comparison for people: one HTML page that needs nothing else.

Everything that a model or a data file said is escaped; the page runs no script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.comparison.figures import kept_measures, picture, score_bars
from training.comparison.result import Comparison
from training.comparison.sheets import probe_sheets
from training.comparison.words import WORDS
from training.evaluation.reporting.report import METRIC_NAMES
from training.evaluation.reporting.standalone_page import render_page


def comparison_page(comparison: Comparison, *, language: str, stylesheet: str) -> str:
    """The whole report as one HTML page in ``language``."""

    def word(key: str, **values: Any) -> str:
        return WORDS[key][language == "zh"].format(**values)

    file = comparison.file or (comparison.choices.file if comparison.choices else None)
    file = file or (comparison.bias.file if comparison.bias else "")
    return render_page(
        "comparison.html",
        word("title", count=len(comparison.contestants) - 1),
        language,
        stylesheet,
        comparison=comparison,
        names=[item.name or word("base") for item in comparison.contestants],
        metrics=METRIC_NAMES if comparison.rows else {},
        bars=score_bars(comparison, language),
        pictures=[picture(comparison, measure, language) for measure in kept_measures(comparison)],
        sheets=probe_sheets(comparison, language),
        word=word,
        file=Path(file).name,
    )
