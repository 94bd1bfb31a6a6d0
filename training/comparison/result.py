"""What a comparison found, as data: who answered what, how well, and what each kept of the base.

Knows no model and no page; a program reads ``comparison.json`` with `Comparison.model_validate_json`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.evaluation.reporting.report import METRICS
from training.probes.findings import Bias, Choices
from training.probes.intervals import Figure

EXTREMES = 20
SAME_BELOW = 0.005  # differences that print as 0.00
# What is read may come from anywhere, and is drawn: no number is none, or beyond what it can be, rounding aside.
Percent = Annotated[float, Field(ge=0, le=100.001)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answered(_Record):
    """One answer to one row, with its scores from 0 to 100."""

    text: str
    is_cut: bool
    rouge_l: Percent
    bleu_4: Percent


class ComparedRow(_Record):
    """A row of the task with every contender's answer, in the contenders' order; ``number`` counts from 1."""

    number: Count
    prompt: str
    history: tuple[tuple[str, str], ...]
    reference: str
    answers: tuple[Answered, ...]

    def gain(self, contender: int) -> float:
        """By how much a contender's ROUGE-L is above the base's."""
        return self.answers[contender].rouge_l - self.answers[0].rouge_l


class GeneralRow(_Record):
    """A general question, the file's own answer (empty where it has none), and what everybody said."""

    question: str
    expected: str
    answers: tuple[str, ...]


class Kept(_Record):
    """What a contender keeps of everything else.

    Attributes:
        likeness: mean ROUGE-L of its answers to the general questions against the base's own, 0 to 100.
        unchanged: questions that it answers word for word as the base does.
        right: questions whose own answer it gives exactly.
        divergence: KL(base ‖ tuned) in nats a token of the base's own answers; None in results of before it was told.
    """

    likeness: Percent
    unchanged: Count
    right: Count
    divergence: Figure | None = None


class Contestant(_Record):
    """Who answered, and its mean scores. The first of a comparison is the base.

    Attributes:
        name: for people; the base's is empty.
        checkpoint: the prefix's place; None for the base.
        scores: by the original's names.
        kept: None where no general question was asked.
        on_edge: nobody else does the task better without keeping less.
    """

    name: str
    checkpoint: str | None
    scores: dict[str, Percent]
    kept: Kept | None = None
    on_edge: bool = False

    @property
    def task(self) -> float:
        """The score that contenders are compared by."""
        return self.scores["rouge-l"]


class Comparison(_Record):
    """A comparison that is done; ``questions_with_answers`` counts general questions whose file has an answer.

    ``file`` is None, and there are no rows, where only ``choices`` or ``bias`` were asked for.
    """

    model: str
    file: str | None
    general_file: str | None
    finished_at: str
    seconds: Figure
    contestants: tuple[Contestant, ...]
    rows: tuple[ComparedRow, ...]
    general: tuple[GeneralRow, ...] = ()
    choices: Choices | None = None
    bias: Bias | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Comparison:
        given = {len(row.answers) for row in self.rows} | {len(row.answers) for row in self.general}
        if not self.contestants or (given | set(self._probed())) - {len(self.contestants)}:
            raise ValueError("expected an answer of every contestant to every row")
        if any(set(METRICS) - contestant.scores.keys() for contestant in self.contestants):
            raise ValueError(f"expected {', '.join(METRICS)} of every contestant")
        return self

    def _probed(self) -> Iterator[int]:
        """Of how many contestants each figure of the probes tells."""
        if self.choices is not None:
            yield from (len(subject.scores) for subject in (self.choices.total, *self.choices.subjects))
            yield from (len(row.shares) for row in self.choices.rows)
        if self.bias is not None:
            yield from (len(summary.scores) for summary in self.bias.summaries)
            yield from (len(row.differences) for row in self.bias.rows)

    @property
    def questions_with_answers(self) -> int:
        return sum(bool(row.expected) for row in self.general)

    def improved(self, contender: int) -> list[ComparedRow]:
        """The rows that a contender answers better than the base, the most improved first."""
        better = [row for row in self.rows if row.gain(contender) >= SAME_BELOW]
        return sorted(better, key=lambda row: -row.gain(contender))[:EXTREMES]

    def worst(self, contender: int) -> list[ComparedRow]:
        """The rows that a contender answers worst."""
        return sorted(self.rows, key=lambda row: row.answers[contender].rouge_l)[:EXTREMES]


def on_edge(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of (task, kept) no other one beats in both, or in one without losing the other."""
    return [
        not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)
        for point in points
    ]


def as_csv(comparison: Comparison, base: str = "base") -> str:
    """The rows for a spreadsheet: input, reference, then answer, ROUGE-L and difference of each contender.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    names = [contestant.name or base for contestant in comparison.contestants]
    head = ["row", "input", "reference"]
    for place, name in enumerate(names):
        head += [name, f"{name} ROUGE-L", *([f"{name} difference"] if place else [])]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_harmless, head))
    for row in comparison.rows:
        cells = [str(row.number), _harmless(row.prompt), _harmless(row.reference)]
        for place, answer in enumerate(row.answers):
            change = [f"{row.gain(place):.4f}"] if place else []
            cells += [_harmless(answer.text), f"{answer.rouge_l:.4f}", *change]
        writer.writerow(cells)
    return "\ufeff" + text.getvalue()  # without the mark Excel reads Chinese as something else


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
