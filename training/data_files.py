"""A user's JSON, JSON lines or CSV file, as rows with their line numbers.

Knows file formats, encodings and what people get wrong in them; every complaint names the file and the line. Does not
know which column means what, nor any token.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError

SUFFIXES = (".json", ".jsonl", ".csv")
LONGEST_CELL = 2**31 - 1  # csv's own limit, 128 KiB, is less than one long document
SNIPPET_CHARACTERS = 40
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        path: the file.
        columns: column names in order of appearance.
        rows: one dictionary a row.
        lines: where each row is: its line, or for a JSON array its number.
        counts_rows: whether ``lines`` holds row numbers.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    lines: list[int]
    counts_rows: bool = False

    def place(self, index: int) -> tuple[str, str]:
        """Where row ``index`` is, for a sentence in English and in Chinese."""
        number = self.lines[index]
        return (f"row {number}", f"第 {number} 条") if self.counts_rows else (f"line {number}", f"第 {number} 行")


def read_table(path: str | Path) -> Table:
    """All rows of a ``.json`` (array or one object a line), ``.jsonl`` or ``.csv`` file in UTF-8.

    Raises:
        DataError: saying in which file and line what is wrong.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        listed = ", ".join(SUFFIXES)
        raise DataError(
            f"{file.name} is not a data file: expected a name that ends in {listed}.",
            f"{file.name} 不是数据文件：文件名应以 {listed} 结尾。",
        )
    text = _read_text(file)
    if not text.strip():
        raise DataError(
            f'{file.name} is empty. Expected one example a line, such as {{"content": "…", "summary": "…"}}.',
            f'{file.name} 是空文件。应每行一条样本，例如 {{"content": "…", "summary": "…"}}。',
        )
    table = _read_csv(file, text) if file.suffix.lower() == ".csv" else _read_json(file, text)
    if not table.rows:
        raise DataError(
            f"{file.name} has a header but no rows. Add at least one example.",
            f"{file.name} 没有任何数据行。请至少添加一条样本。",
        )
    return table


def _read_text(file: Path) -> str:
    content = _read_bytes(file)
    if content.startswith(UTF16_MARKS):
        raise _wrong_encoding(file, "UTF-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        try:
            content.decode("gb18030")
        except UnicodeDecodeError:
            raise DataError(
                f"{file.name}, line {line}: the bytes are not UTF-8 text. Save the file as UTF-8.",
                f"{file.name} 第 {line} 行：内容不是 UTF-8 文本。请将文件另存为 UTF-8 编码。",
            ) from None
        raise _wrong_encoding(file, "GBK") from None


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        beside = sorted(item.name for item in file.parent.glob("*") if item.suffix.lower() in SUFFIXES)[:3]
        hint_en = f" Beside it there is {', '.join(beside)}." if beside else " Check the path."
        hint_zh = f"同目录下有 {'、'.join(beside)}。" if beside else "请检查路径。"
        raise DataError(f"There is no file {file}.{hint_en}", f"文件 {file} 不存在。{hint_zh}") from None
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}). Check that it is a file and that you may read it.",
            f"无法读取 {file}（{error.strerror}）。请确认它是文件且有读取权限。",
        ) from error


def _wrong_encoding(file: Path, encoding: str) -> DataError:
    return DataError(
        f"{file.name} is in {encoding}, expected UTF-8. Save it again as UTF-8 "
        f"(in Excel: CSV UTF-8; or: iconv -f {encoding} -t UTF-8 {file.name} > utf8-{file.name}).",
        f"{file.name} 的编码是 {encoding}，应为 UTF-8。请另存为 UTF-8（Excel 选“CSV UTF-8”；"
        f"或运行 iconv -f {encoding} -t UTF-8 {file.name} > utf8-{file.name}）。",
    )


def _read_json(file: Path, text: str) -> Table:
    if text.lstrip().startswith("["):
        return _json_array(file, text)
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _broken_json(file, number, line, error) from None
        rows.append(_checked_object(file, row, f"line {number}", f"第 {number} 行"))
        lines.append(number)
    return Table(file, _columns(rows), rows, lines)


def _json_array(file: Path, text: str) -> Table:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise _broken_json(file, error.lineno, line, error) from None
    rows = [_checked_object(file, item, f"row {number}", f"第 {number} 条") for number, item in enumerate(items, 1)]
    return Table(file, _columns(rows), rows, list(range(1, len(rows) + 1)), counts_rows=True)


def _broken_json(file: Path, number: int, line: str, error: json.JSONDecodeError) -> DataError:
    start = max(error.colno - 1 - SNIPPET_CHARACTERS // 2, 0)
    snippet = line[start : start + SNIPPET_CHARACTERS].strip()
    return DataError(
        f"{file.name}, line {number}, column {error.colno}: broken JSON near «{snippet}» ({error.msg}). "
        'Expected one object a line, such as {"content": "…", "summary": "…"}, or one array of them.',
        f"{file.name} 第 {number} 行第 {error.colno} 列：“{snippet}”附近不是有效的 JSON（{error.msg}）。"
        '应每行一个对象，例如 {"content": "…", "summary": "…"}，或整个文件是一个数组。',
    )


def _checked_object(file: Path, row: Any, place_en: str, place_zh: str) -> Row:
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise DataError(
            f"{file.name}, {place_en}: expected an object with named columns, found {kind}. "
            'Write {"content": "…", "summary": "…"}.',
            f'{file.name} {place_zh}：应为带列名的对象，实际为 {kind}。请写成 {{"content": "…", "summary": "…"}}。',
        )
    return row


def _columns(rows: list[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _read_csv(file: Path, text: str) -> Table:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    numbered = _csv_records(file, reader)
    _, header = next(numbered)
    names = [name.strip() for name in header]
    _check_header(file, names)
    rows, lines = [], []
    for number, cells in numbered:
        if len(cells) != len(names):
            expected = ", ".join(names)
            raise DataError(
                f"{file.name}, line {number}: expected {len(names)} cells ({expected}), found {len(cells)}. "
                "Put cells that contain commas or line breaks in double quotes.",
                f"{file.name} 第 {number} 行：应有 {len(names)} 个单元格（{expected}），实际有 {len(cells)} 个。"
                "含逗号或换行的单元格请用双引号括起来。",
            )
        rows.append(dict(zip(names, cells, strict=True)))
        lines.append(number)
    return Table(file, tuple(names), rows, lines)


def _csv_records(file: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Non-empty records with the line that each begins on."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{file.name}, line {number}: broken CSV ({error}). Check the double quotes from this line on.",
                f"{file.name} 第 {number} 行：CSV 格式有误（{error}）。请检查该行起的双引号。",
            ) from None
        if any(cell.strip() for cell in cells):
            yield number, cells


def _check_header(file: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        what_en = f"the column {twice[0]!r} appears twice" if twice and twice[0] else "a column has no name"
        what_zh = f"列 {twice[0]!r} 出现了两次" if twice and twice[0] else "有一列没有名字"
        raise DataError(
            f"{file.name}, line 1: {what_en}. Give every column a name of its own.",
            f"{file.name} 第 1 行：{what_zh}。请为每一列起不同的名字。",
        )
    if len(names) == 1 and any(mark in names[0] for mark in "\t;|"):
        raise DataError(
            f"{file.name}, line 1: expected columns separated by commas, found one column {names[0]!r}. "
            "Export the file again with commas.",
            f"{file.name} 第 1 行：列之间应以逗号分隔，实际只有一列 {names[0]!r}。请用逗号分隔重新导出。",
        )
