"""Rows of a data file that cannot be used: refused at once, or counted and left out.

Knows numbers and sentences; does not know what was wrong with a row, nor how a file is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatglm2.errors import DataError

SHOWN_NUMBERS = 5
KEPT_ERRORS = 3


@dataclass
class BadRows:
    """What becomes of rows that cannot be used, and which they were.

    Attributes:
        skip: count them, where False refuses the first one.
        counts_rows: whether ``numbers`` are rows of an array, or lines.
        numbers: where they are.
        first: what is wrong with the first few.
    """

    skip: bool = False
    counts_rows: bool = False
    numbers: list[int] = field(default_factory=list)
    first: list[DataError] = field(default_factory=list)

    def add(self, number: int, error: DataError) -> None:
        """Count a row.

        Raises:
            DataError: ``error``, with the way around it, unless bad rows are skipped.
        """
        if not self.skip:
            raise _with_remedy(error)
        self.numbers.append(number)
        if len(self.first) < KEPT_ERRORS:
            self.first.append(error)

    def require_none(self) -> None:
        """Refuse, after all, what was counted.

        Raises:
            DataError: for the first bad row.
        """
        if self.first:
            raise _with_remedy(self.first[0])

    def nothing_left(self, file_name: str) -> DataError:
        """The error for a file in which every row is bad."""
        first = self.first[0]
        return DataError(
            f"{file_name}: none of its rows can be used, {len(self.numbers)} are broken. The first: {first.en}",
            f"{file_name}：没有可用的数据行，{len(self.numbers)} 行有误。第一处：{first.zh}",
        )

    def describe(self, file_name: str) -> tuple[str, str]:
        """How many were skipped, where, and what is wrong with the first; in English and Chinese."""
        count = len(self.numbers)
        shown = sorted(self.numbers)[:SHOWN_NUMBERS]
        more = "…" if count > len(shown) else ""
        place = ("row" if self.counts_rows else "line") + ("s" if count > 1 else "")
        first = self.first[0]
        return (
            f"{file_name}: {count} broken row{'s are' if count > 1 else ' is'} skipped "
            f"({place} {', '.join(map(str, shown))}{more}). The first: {first.en}",
            f"{file_name}：跳过了 {count} 行有误的数据（第 {'、'.join(map(str, shown))}{more}"
            f" {'条' if self.counts_rows else '行'}）。第一处：{first.zh}",
        )


def _with_remedy(error: DataError) -> DataError:
    return DataError(
        f"{error.en} --skip_bad_rows would leave such rows out.", f"{error.zh}也可用 --skip_bad_rows 跳过这样的行。"
    )
