"""Rows of a table in text: cells separated by commas, tabs or semicolons.

Knows how people break such tables, and says where; does not know which column means what.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatglm2.errors import DataError
from training.data.bad_rows import BadRows
from training.data.formats.rows import Rows, check_header
from training.data.formats.text import FileText, not_text

LONGEST_CELL = 2**31 - 1  # csv's own limit, 128 KiB, is less than one long document
SEPARATORS = (",", "\t", ";")  # where a comma is a decimal point, Excel writes semicolons
TABS = ".tsv"
ROW_NUMBERS = "index"  # what pandas calls the column that it writes first, and without a name


def read_csv(file: Path, text: FileText, bad_rows: BadRows) -> Rows:
    """The records below the header, with the line that each begins on.

    Raises:
        DataError: for a header or a record that is broken.
    """
    separator = "\t" if file.suffix.lower() == TABS else _separator(text.lines)
    csv.field_size_limit(LONGEST_CELL)
    numbered = _csv_records(file, text, separator, bad_rows)
    number, header = next(numbered, (1, []))
    names = [name.strip() for name in header]
    if names[:1] == [""] and ROW_NUMBERS not in names:
        names[0] = ROW_NUMBERS
    if bad_rows.first:  # a file that begins with a broken line has no header that could be trusted
        raise bad_rows.first[0]
    check_header(file, names)
    _check_bars(file, names)
    rows, lines = [], []
    for number, cells in numbered:
        if len(cells) == len(names):
            rows.append(dict(zip(names, cells, strict=True)))
            lines.append(number)
        else:
            bad_rows.add(number, _wrong_cell_count(file, number, names, len(cells)))
    return Rows(tuple(names), rows, lines, separator=separator)


def _wrong_cell_count(file: Path, number: int, names: Sequence[str], count: int) -> DataError:
    expected = ", ".join(names)
    return DataError(
        f"{file.name}, line {number}: expected {len(names)} cells ({expected}), found {count}. "
        "Put cells that contain commas or line breaks in double quotes.",
        f"{file.name} 第 {number} 行：应有 {len(names)} 个单元格（{expected}），实际有 {count} 个。"
        "含逗号或换行的单元格请用双引号括起来。",
    )


def _csv_records(file: Path, text: FileText, separator: str, bad_rows: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Non-empty records with the line that each begins on.

    A quote that is never closed swallows the lines behind it, so reading goes on right after the line where the broken
    record began. Swallowed lines that hold a quote themselves may be the broken record's rest: they count as bad, too.
    """
    lines = text.lines
    skipped, swallowed = 0, 0  # lines before the reader's first; the last line that a broken record reached
    reader = csv.reader(iter(lines), strict=True, delimiter=separator)
    while True:
        number = skipped + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad_rows.add(number, _broken_csv(file, number, error))
            swallowed = max(swallowed, skipped + reader.line_num)
            skipped = number
            reader = csv.reader((lines[index] for index in range(number, len(lines))), strict=True, delimiter=separator)
            continue
        if number <= swallowed and '"' in lines[number - 1]:
            bad_rows.add(number, _broken_csv(file, number, "behind a quote that is not closed"))
        elif text.damaged and not text.damaged.isdisjoint(range(number, skipped + reader.line_num + 1)):
            bad_rows.add(number, not_text(file, number))
        elif any(cell.strip() for cell in cells):
            yield number, cells


def _separator(lines: Sequence[str]) -> str:
    """A comma, unless the header holds none and another mark that tables are separated by."""
    header = next((line for line in lines if line.strip()), "")
    return next((mark for mark in SEPARATORS if mark in header), ",")


def _broken_csv(file: Path, number: int, reason: object) -> DataError:
    return DataError(
        f"{file.name}, line {number}: broken CSV ({reason}). Check the double quotes from this line on.",
        f"{file.name} 第 {number} 行：CSV 格式有误（{reason}）。请检查该行起的双引号。",
    )


def _check_bars(file: Path, names: list[str]) -> None:
    if len(names) == 1 and "|" in names[0]:
        raise DataError(
            f"{file.name}, line 1: expected columns separated by commas, found one column {names[0]!r}. "
            "Export the file again with commas.",
            f"{file.name} 第 1 行：列之间应以逗号分隔，实际只有一列 {names[0]!r}。请用逗号分隔重新导出。",
        )
