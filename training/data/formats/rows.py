"""What every format gives: rows under column names, and where each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Rows of a file as they are in it.

    Attributes:
        columns: column names in order of appearance.
        rows: one dictionary a row.
        places: where each row is: its line, or its number.
        counts_rows: whether ``places`` are numbers of rows.
        separator: what stands between the cells of a table in text.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    places: list[int]
    counts_rows: bool = False
    separator: str = ""


def columns_of(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """All names of the rows, in order of appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def check_header(file: Path, names: Sequence[str]) -> None:
    """Refuse names that do not tell columns apart.

    Raises:
        DataError: a column has no name, or two have the same.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice or "" in names:
        what_en = f"the column {twice[0]!r} appears twice" if twice and twice[0] else "a column has no name"
        what_zh = f"列 {twice[0]!r} 出现了两次" if twice and twice[0] else "有一列没有名字"
        raise DataError(
            f"{file.name}, header: {what_en}. Give every column a name of its own.",
            f"{file.name} 表头：{what_zh}。请为每一列起不同的名字。",
        )
