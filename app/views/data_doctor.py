"""What is wrong with data, its rows a page at a time, and a row as the model sees it.

Pure: findings and rows in, escaped HTML out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from app.text.languages import Speech
from app.training.form import problem_text
from app.views.markup import render
from chatglm2.errors import DataError
from training.data.doctor.browsing import RenderedRow, RowPage
from training.data.doctor.findings import Diagnosis, Words


def findings_html(found: Sequence[Diagnosis], speech: Speech) -> Markup:
    """Every file with what is wrong with it, each problem with its lines."""

    def say(words: Words) -> str:
        return problem_text(DataError(*words), speech)  # on a page settings have names, not flags

    return render("data_findings", found=found, say=say, limits=_limits(say), word=speech)


def rows_html(page: RowPage, speech: Speech) -> Markup:
    """A page of rows; each opens by its button."""
    return render("data_rows", page=page, word=speech)


def row_html(row: RenderedRow, speech: Speech) -> Markup:
    """A row in training, with the part that is learnt marked by colour and by a line under it."""
    return render("data_row", row=row, place=speech.pick(*row.place), word=speech)


def _limits(say: Callable[[Words], str]) -> Callable[[Diagnosis], str]:
    def listed(diagnosis: Diagnosis) -> str:
        text = ", ".join(f"--{name} {value}" for name, value in diagnosis.limits.items())
        return say((text, text))

    return listed
