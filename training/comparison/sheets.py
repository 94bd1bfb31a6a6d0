"""What probes found as tables of text, which the page, the HTML report and the command line show alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.comparison.result import Comparison
from training.comparison.words import WORDS
from training.probes.findings import Bias, Choices
from training.probes.intervals import Interval

NOTHING = "–"
LEAST_SHOWN_SHARE = 0.001


@dataclass(frozen=True)
class Sheet:
    """A table under a heading, with a note on what its figures are; the first cell of a line names it."""

    title: str
    note: str
    head: list[str]
    lines: list[list[str]]


def probe_sheets(comparison: Comparison, language: str) -> list[Sheet]:
    """The tables of what was probed, if anything was."""
    return list(_Sheets(comparison, language).all())


class _Sheets:
    """The tables in one language."""

    def __init__(self, comparison: Comparison, language: str) -> None:
        self._comparison = comparison
        self._language = language
        self._names = [item.name or self._word("base") for item in comparison.contestants]

    def all(self) -> Iterator[Sheet]:
        choices, bias = self._comparison.choices, self._comparison.bias
        if choices is not None:
            yield self._choices(choices)
            if len(choices.subjects) > 1:
                yield self._subjects(choices)
        if bias is not None:
            yield self._bias(bias)

    def _word(self, key: str, **values: object) -> str:
        return WORDS[key][self._language == "zh"].format(**values)

    def _choices(self, choices: Choices) -> Sheet:
        total, lines = choices.total, []
        for place, (name, score) in enumerate(zip(self._names, total.scores, strict=True)):
            compared = [str(choices.gained(place)), str(choices.lost(place))] if place else [NOTHING, NOTHING]
            right = self._word("of", count=score.right, total=total.questions)
            shares = [_percent(score.accuracy.value), _percent_range(score.accuracy)]
            lines.append([name, right, *shares, *compared, _percent(score.letters)])
        return Sheet(
            self._word("choices"),
            self._word("choices_note", file=Path(choices.file).name, count=total.questions),
            [self._word(key) for key in ("who", "right", "accuracy", "interval", "gained", "lost", "letters")],
            lines,
        )

    def _subjects(self, choices: Choices) -> Sheet:
        lines = []
        for subject in choices.subjects:
            scores = [f"{_percent(each.accuracy.value)} ({_percent_range(each.accuracy)})" for each in subject.scores]
            lines.append([subject.name, str(subject.questions), *scores])
        head = [self._word("subject"), self._word("questions"), *self._names]
        return Sheet(self._word("subjects"), self._word("subjects_note"), head, lines)

    def _bias(self, bias: Bias) -> Sheet:
        lines = []
        for summary in bias.summaries:
            groups = self._word("groups", first=summary.groups[0], second=summary.groups[1])
            counts = f"{summary.templates} / {summary.pairs}"
            decimals = 3 if summary.measure == "likelihood" else 1
            for name, score in zip(self._names, summary.scores, strict=True):
                figures = [
                    _figure(score.leaning, decimals, signed=True),
                    _figure(score.size, decimals),
                    _figure(score.change, decimals, signed=True),
                ]
                lines.append([f"{summary.attribute}: {groups}", counts, self._word(summary.measure), name, *figures])
        head = ["attribute", "templates", "measure", "who", "leaning", "size", "change"]
        note = self._word("bias_note", file=Path(bias.file).name, count=len(bias.rows))
        return Sheet(self._word("bias"), note, [self._word(key) for key in head], lines)


def _percent(share: float) -> str:
    if 0 < share < LEAST_SHOWN_SHARE:
        return f"< {100 * LEAST_SHOWN_SHARE:.1f} %"
    return f"{100 * share:.1f} %"


def _percent_range(interval: Interval) -> str:
    return NOTHING if interval.low is None or interval.high is None else _range(100 * interval.low, 100 * interval.high)


def _range(low: float, high: float) -> str:
    return f"{low:.1f} … {high:.1f}"


def _figure(interval: Interval | None, decimals: int, *, signed: bool = False) -> str:
    """A figure with its bounds; where there are none, one template told it."""
    if interval is None:
        return NOTHING
    form = f"{'+' if signed else ''}.{decimals}f"
    told = [
        f"{value:{form}}".replace("-", "−")
        for value in (interval.value, interval.low, interval.high)
        if value is not None
    ]
    return told[0] if len(told) == 1 else f"{told[0]} ({told[1]} … {told[2]})"
