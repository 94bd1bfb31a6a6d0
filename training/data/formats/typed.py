"""Rows of Excel workbooks and Parquet files, whose cells have types: every value becomes the text that a person reads.

Knows how openpyxl and pyarrow hand cells over, and imports them where a file needs one. Does not know what a column
means.
"""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError
from training.data.formats.rows import Rows, check_header

EXCEL, PARQUET = ".xlsx", ".parquet"
REASON_CHARACTERS = 100


def read_excel(file: Path, content: bytes) -> Rows:
    """The first sheet's rows, by Excel's own row numbers; the first that is not empty names the columns.

    Raises:
        DataError: openpyxl is not installed, or it cannot read the file.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{file.name}: openpyxl, which reads Excel, is not installed. Save the sheet as CSV UTF-8, or run "
            ".venv/bin/pip install openpyxl.",
            f"{file.name}：未安装读取 Excel 所需的 openpyxl。请在 Excel 中另存为“CSV UTF-8”，或运行 "
            ".venv/bin/pip install openpyxl。",
        ) from None

    def filled_rows() -> list[tuple[int, list[Any]]]:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what a file says of its size may be wrong
        numbered = enumerate(sheet.iter_rows(values_only=True), 1)
        return [(number, list(map(_plain, cells))) for number, cells in numbered if any(c is not None for c in cells)]

    rows = _understood(file, "Excel", "Excel 工作簿", filled_rows)
    return _below_header(file, rows)


def read_parquet(file: Path, content: bytes) -> Rows:
    """The rows of a Parquet file, by their numbers.

    Raises:
        DataError: pyarrow cannot read the file.
    """
    import pyarrow
    import pyarrow.parquet

    source = pyarrow.BufferReader(content)
    # One thread: each would take room of its own, and a preview has little.
    table = _understood(
        file, "Parquet", "Parquet 文件", lambda: pyarrow.parquet.read_table(source, use_threads=False, pre_buffer=False)
    )
    check_header(file, table.column_names)
    rows = _understood(file, "Parquet", "Parquet 文件", lambda: list(map(_plain, table.to_pylist())))
    return Rows(tuple(table.column_names), rows, list(range(1, len(rows) + 1)), counts_rows=True)


def _below_header(file: Path, numbered: Sequence[tuple[int, list[Any]]]) -> Rows:
    """Rows under the names in the first; columns without a name and without a value were only formatted."""
    if not numbered:
        raise DataError(
            f"{file.name}: its first sheet is empty. Put the names of the columns into the first row.",
            f"{file.name}：第一个工作表是空的。请在第一行填写列名。",
        )
    (_, header), *below = numbered
    width = max(len(cells) for _, cells in numbered)
    padded = [(number, cells + [None] * (width - len(cells))) for number, cells in below]
    names = [str(name or "").strip() for name in header + [None] * (width - len(header))]
    used = [column for column in range(width) if names[column] or any(_is_filled(cells[column]) for _, cells in padded)]
    kept = [names[column] for column in used]
    check_header(file, kept)
    rows = [dict(zip(kept, (cells[column] for column in used), strict=True)) for _, cells in padded]
    return Rows(tuple(kept), rows, [number for number, _ in padded], counts_rows=True)


def _is_filled(cell: Any) -> bool:
    return cell is not None and cell != ""


def _understood(file: Path, en: str, zh: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives; a damaged file makes these libraries raise whatever their inner parts do."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:REASON_CHARACTERS] or type(error).__name__
        raise DataError(
            f"{file.name} cannot be read as {en} ({reason}). Save it again without a password, or as CSV UTF-8.",
            f"无法按 {zh}读取 {file.name}（{reason}）。请去掉密码后重新保存，或另存为“CSV UTF-8”。",
        ) from error


def _plain(value: Any) -> Any:
    """A cell as JSON would hold it: text, lists and objects of text; nothing where there is nothing to read."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, Iterable):
        return [_plain(inner) for inner in value]
    return _as_text(value)


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:  # a picture, say
        return None


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)
