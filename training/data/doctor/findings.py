"""What a look at a data file finds, in sentences of two languages that name lines.

Knows how findings are told; does not know how they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.data.files import Table

SHOWN_PLACES = 8
Words = tuple[str, str]  # in English, in Chinese


class Kind(StrEnum):
    """What may be wrong, in the order in which it is told."""

    BROKEN = "broken"
    EMPTY = "empty"
    DUPLICATE = "duplicate"
    LEAK = "leak"
    LONG_PROMPT = "long_prompt"
    LONG_ANSWER = "long_answer"
    ODD = "odd"


@dataclass(frozen=True)
class Finding:
    """One kind of problem in a file.

    Attributes:
        kind: which.
        says: how many rows have it, and what that means.
        places: the rows' lines, or numbers, in order.
        where: the first of them, as words.
        details: what is wrong with the first few rows, each with its place.
    """

    kind: Kind
    says: Words
    places: tuple[int, ...]
    where: Words
    details: tuple[Words, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """A file that was looked at.

    Attributes:
        path: the file.
        read_as: its format and encoding.
        rows: how many it has, those that cannot be used among them.
        findings: what is wrong, if anything is.
        limits: the settings that would have to be so large that nothing is cut; none where nothing is.
    """

    path: Path
    read_as: Words
    rows: int
    findings: tuple[Finding, ...]
    limits: dict[str, int]

    @property
    def is_healthy(self) -> bool:
        return not self.findings

    def has(self, kind: Kind) -> bool:
        return any(finding.kind == kind for finding in self.findings)


def describe_places(table: Table, places: Sequence[int]) -> Words:
    """Where rows are: the first few, and how many more."""
    shown, more = places[:SHOWN_PLACES], len(places) - SHOWN_PLACES
    unit_en = ("row" if table.counts_rows else "line") + ("s" if len(places) > 1 else "")
    unit_zh = "条" if table.counts_rows else "行"
    rest_en, rest_zh = (f" and {more:,} more", f"等，另有 {more:,} 处") if more > 0 else ("", "")
    return (
        f"{unit_en} {', '.join(map(str, shown))}{rest_en}",
        f"第 {'、'.join(map(str, shown))} {unit_zh}{rest_zh}",
    )


def plural(count: int, one: str, many: str) -> str:
    """``count`` with the word that fits it."""
    return f"{count:,} {one if count == 1 else many}"
