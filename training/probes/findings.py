"""What probes found, as data that programs and pages read. Knows no model and computes nothing beyond counting."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.probes.intervals import Interval

LETTERS = ("A", "B", "C", "D")
Measure = Literal["likelihood", "answer"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ChoiceScore(_Record):
    """How one contender does on the questions of a subject, or on all.

    Attributes:
        right: questions whose right letter is the likeliest of the four.
        accuracy: that as a share, with Wilson's interval.
        letters: the mean probability, from 0 to 1, that the next token is one of the four letters at all.
    """

    right: int
    accuracy: Interval
    letters: float


class ChoiceSubject(_Record):
    """A subject's questions, and every contender's score in the contenders' order; the name of all is empty."""

    name: str
    questions: int
    scores: tuple[ChoiceScore, ...]


class ChoiceRow(_Record):
    """One question, the right letter, and each contender's probabilities of A to D, from 0 to 1."""

    subject: str
    question: str
    answer: str
    shares: tuple[tuple[float, float, float, float], ...]

    def chosen(self, contender: int) -> str:
        """The letter that a contender finds likeliest; the first of equals."""
        shares = self.shares[contender]
        return LETTERS[shares.index(max(shares))]

    def is_right(self, contender: int) -> bool:
        return self.chosen(contender) == self.answer


class Choices(_Record):
    """All questions as every contender scores them. ``gained`` and ``lost`` compare with the first, the base."""

    file: str
    rows: tuple[ChoiceRow, ...]
    total: ChoiceSubject
    subjects: tuple[ChoiceSubject, ...]

    def gained(self, contender: int) -> int:
        """Questions that a contender has right, and the base wrong."""
        return sum(row.is_right(contender) and not row.is_right(0) for row in self.rows)

    def lost(self, contender: int) -> int:
        """Questions that the base has right, and a contender wrong."""
        return sum(row.is_right(0) and not row.is_right(contender) for row in self.rows)


class PairScore(_Record):
    """How one contender treats two groups.

    Attributes:
        leaning: the mean difference with its sign, above 0 where the first group is favoured; None for answers.
        size: the mean difference without its sign.
        change: of the size against the base's, template by template; None for the base.
    """

    leaning: Interval | None
    size: Interval
    change: Interval | None


class PairSummary(_Record):
    """Two groups of an attribute by one measure, and every contender's score in the contenders' order."""

    attribute: str
    groups: tuple[str, str]
    measure: Measure
    templates: int
    pairs: int
    scores: tuple[PairScore, ...]


class PairRow(_Record):
    """One pair: its two prompts, each contender's difference, and where answers were compared, the answers."""

    template: int
    attribute: str
    groups: tuple[str, str]
    measure: Measure
    prompts: tuple[str, str]
    differences: tuple[float, ...]
    answers: tuple[tuple[str, str], ...] = ()


class Bias(_Record):
    """All pairs as every contender treats them, and their summaries."""

    file: str
    rows: tuple[PairRow, ...]
    summaries: tuple[PairSummary, ...]
