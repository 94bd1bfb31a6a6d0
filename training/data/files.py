"""A user's JSON, JSON lines or CSV file, as rows with their line numbers.

Knows file formats, encodings and what people get wrong in them; every complaint names the file and the line. Does not
know which column means what, nor any token. A row that cannot be used is refused at once, or counted and left out where
the user allows it (`bad_rows.py`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError
from chatglm2.files import open_regular
from training.data.bad_rows import BadRows
from training.data.shapes import Row, find_shape

SUFFIXES = (".json", ".jsonl", ".csv")
LONGEST_CELL = 2**31 - 1  # csv's own limit, 128 KiB, is less than one long document
SNIPPET_CHARACTERS = 40
MOST_COLUMNS = 1000  # nobody could choose among more; a file that has them is one of another kind
WRAPPER = "data"
SEPARATORS = (",", "\t", ";")  # where a comma is a decimal point, Excel writes semicolons
ROW_NUMBERS = "index"  # what pandas calls the column that it writes first, and without a name
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        path: the file.
        columns: column names in order of appearance.
        rows: one dictionary a row.
        lines: where each row is: its line, or for a JSON array its number.
        counts_rows: whether ``lines`` holds row numbers.
        bad_rows: what becomes, and what became, of rows that cannot be used.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    lines: list[int]
    counts_rows: bool = False
    bad_rows: BadRows = field(default_factory=BadRows)

    def place(self, index: int) -> tuple[str, str]:
        """Where row ``index`` is, for a sentence in English and in Chinese."""
        number = self.lines[index]
        return (f"row {number}", f"第 {number} 条") if self.counts_rows else (f"line {number}", f"第 {number} 行")


def read_table(path: str | Path, *, skip_bad_rows: bool = False) -> Table:
    """All rows of a ``.json`` (array or one object a line), ``.jsonl`` or ``.csv`` file in UTF-8 or UTF-16.

    Args:
        path: the file.
        skip_bad_rows: leave out rows that cannot be read, and count them in ``bad_rows``.

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
    if not text.content.strip():
        raise DataError(
            f'{file.name} is empty. Expected one example a line, such as {{"content": "…", "summary": "…"}}.',
            f'{file.name} 是空文件。应每行一条样本，例如 {{"content": "…", "summary": "…"}}。',
        )
    bad_rows = BadRows(skip=skip_bad_rows)
    table = (_read_csv if file.suffix.lower() == ".csv" else _read_json)(file, text, bad_rows)
    if len(table.columns) > MOST_COLUMNS:
        raise DataError(
            f"{file.name} has {len(table.columns):,} columns, at most {MOST_COLUMNS:,} are read. Expected one example "
            'a line, such as {"content": "…", "summary": "…"}.',
            f"{file.name} 有 {len(table.columns):,} 列，最多支持 {MOST_COLUMNS:,} 列。"
            '应每行一条样本，例如 {"content": "…", "summary": "…"}。',
        )
    if not table.rows:
        if bad_rows.first:
            raise bad_rows.nothing_left(file.name)
        raise DataError(
            f"{file.name} has a header but no rows. Add at least one example.",
            f"{file.name} 没有任何数据行。请至少添加一条样本。",
        )
    return _in_known_columns(table)


def _in_known_columns(table: Table) -> Table:
    """The table with columns for prompt and answer where its rows have a public data set's shape."""
    unfold = find_shape(table.columns, table.rows)
    if unfold is None:
        return table
    rows, lines = [], []
    for index, number in enumerate(table.lines):
        try:
            unfolded = unfold(table.rows[index])
        except DataError as error:
            place_en, place_zh = table.place(index)
            name = table.path.name
            placed = DataError(f"{name}, {place_en}: {error.en}", f"{name} {place_zh}：{error.zh}")
            table.bad_rows.add(number, placed)
            continue
        rows += unfolded
        lines += [number] * len(unfolded)
    if not rows:
        raise table.bad_rows.nothing_left(table.path.name)
    return replace(table, columns=_columns(rows), rows=rows, lines=lines)


@dataclass(frozen=True)
class _Text:
    """A file's text; ``damaged`` are the numbers of lines whose bytes are no UTF-8."""

    content: str
    damaged: frozenset[int] = frozenset()

    @property
    def lines(self) -> list[str]:
        """Lines with their ends, as CSV needs them."""
        return list(io.StringIO(self.content, newline=""))


def _read_text(file: Path) -> _Text:
    content = _read_bytes(file)
    if content.startswith(UTF16_MARKS):
        if not _can_decode(content, "utf-16"):
            raise _wrong_encoding(file, "UTF-16")
        return _Text(content.decode("utf-16"))
    try:
        return _Text(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        lines = content.split(b"\n")
        damaged = frozenset(number for number, line in enumerate(lines, 1) if not _is_utf8(line))
    # Most UTF-8 text can be read as GBK, too; a file that really is GBK has hardly a line that is good UTF-8.
    foreign = sum(not line.isascii() for line in lines)
    if len(damaged) > foreign / 2 and _can_decode(content, "gb18030"):
        raise _wrong_encoding(file, "GBK")
    return _Text(content.decode("utf-8-sig", errors="replace"), damaged)


def _is_utf8(line: bytes) -> bool:
    return _can_decode(line, "utf-8")


def _can_decode(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _read_bytes(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            return opened.read()
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


def _not_utf8(file: Path, number: int) -> DataError:
    return DataError(
        f"{file.name}, line {number}: the bytes are not UTF-8 text. Save the file as UTF-8.",
        f"{file.name} 第 {number} 行：内容不是 UTF-8 文本。请将文件另存为 UTF-8 编码。",
    )


def _read_json(file: Path, text: _Text, bad_rows: BadRows) -> Table:
    wrapped = _wrapped_rows(text)
    if wrapped is not None or text.content.lstrip().startswith("["):
        return _json_array(file, text, bad_rows, wrapped)
    rows, lines = [], []
    for number, line in enumerate(text.content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            if number in text.damaged:
                raise _not_utf8(file, number)
            row = _checked_object(file, _parse_json(file, number, line), f"line {number}", f"第 {number} 行")
        except DataError as error:
            bad_rows.add(number, error)
            continue
        rows.append(row)
        lines.append(number)
    return Table(file, _columns(rows), rows, lines, bad_rows=bad_rows)


def _wrapped_rows(text: _Text) -> list[Any] | None:
    """The rows of a file that is one object with all of them under ``data``."""
    if text.damaged or not text.content.lstrip().startswith("{"):
        return None
    try:
        whole = json.loads(text.content)  # ends behind the first line of a file with one object a line
    except (ValueError, RecursionError):
        return None
    rows = whole.get(WRAPPER)
    return rows if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) else None


def _parse_json(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _broken_json(file, number, line, error) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise _unreadable_json(file, number, error) from None


def _json_array(file: Path, text: _Text, bad_rows: BadRows, wrapped: list[Any] | None) -> Table:
    bad_rows.counts_rows = True
    if text.damaged:
        raise _whole_array(_not_utf8(file, min(text.damaged)), bad_rows)
    try:
        items = json.loads(text.content) if wrapped is None else wrapped
    except json.JSONDecodeError as error:
        line = text.content.split("\n")[error.lineno - 1]
        raise _whole_array(_broken_json(file, error.lineno, line, error), bad_rows) from None
    except (ValueError, RecursionError) as error:
        raise _whole_array(_unreadable_json(file, 1, error), bad_rows) from None
    rows, numbers = [], []
    for number, item in enumerate(items, 1):
        try:
            rows.append(_checked_object(file, item, f"row {number}", f"第 {number} 条"))
        except DataError as error:
            bad_rows.add(number, error)
            continue
        numbers.append(number)
    return Table(file, _columns(rows), rows, numbers, counts_rows=True, bad_rows=bad_rows)


def _whole_array(error: DataError, bad_rows: BadRows) -> DataError:
    """The error for a broken array, which where rows may be skipped says why this one cannot be."""
    if not bad_rows.skip:
        return error
    return DataError(
        f"{error.en} A file that is one array can only be read as a whole, so --skip_bad_rows cannot help: "
        "mend it, or write one object a line.",
        f"{error.zh}整个文件是一个数组时只能整体读取，--skip_bad_rows 无法跳过：请修正它，或改为每行一个对象。",
    )


def _unreadable_json(file: Path, number: int, error: Exception) -> DataError:
    reason = str(error).split(";")[0]
    return DataError(
        f"{file.name}, line {number}: this JSON cannot be read ({reason}). "
        'Expected one object a line, such as {"content": "…", "summary": "…"}.',
        f"{file.name} 第 {number} 行：无法读取这段 JSON（{reason}）。"
        '应每行一个对象，例如 {"content": "…", "summary": "…"}。',
    )


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
    if not all(is_valid_text(name) for name in row):
        raise DataError(
            f"{file.name}, {place_en}: a column's name holds half a character (a lone surrogate such as \\ud83d). "
            "Remove it, or write the character itself.",
            f"{file.name} {place_zh}：列名中有不完整的字符（如单独的 \\ud83d），请删除或写出完整字符。",
        )
    return row


def is_valid_text(text: str) -> bool:
    """Whether ``text`` holds no half of a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _columns(rows: list[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _read_csv(file: Path, text: _Text, bad_rows: BadRows) -> Table:
    csv.field_size_limit(LONGEST_CELL)
    numbered = _csv_records(file, text, bad_rows)
    number, header = next(numbered, (1, []))
    names = [name.strip() for name in header]
    if names[:1] == [""] and ROW_NUMBERS not in names:
        names[0] = ROW_NUMBERS
    if bad_rows.first:  # a file that begins with a broken line has no header that could be trusted
        raise bad_rows.first[0]
    _check_header(file, names)
    rows, lines = [], []
    for number, cells in numbered:
        if len(cells) == len(names):
            rows.append(dict(zip(names, cells, strict=True)))
            lines.append(number)
        else:
            bad_rows.add(number, _wrong_cell_count(file, number, names, len(cells)))
    return Table(file, tuple(names), rows, lines, bad_rows=bad_rows)


def _wrong_cell_count(file: Path, number: int, names: Sequence[str], count: int) -> DataError:
    expected = ", ".join(names)
    return DataError(
        f"{file.name}, line {number}: expected {len(names)} cells ({expected}), found {count}. "
        "Put cells that contain commas or line breaks in double quotes.",
        f"{file.name} 第 {number} 行：应有 {len(names)} 个单元格（{expected}），实际有 {count} 个。"
        "含逗号或换行的单元格请用双引号括起来。",
    )


def _csv_records(file: Path, text: _Text, bad_rows: BadRows) -> Iterator[tuple[int, list[str]]]:
    """Non-empty records with the line that each begins on.

    A quote that is never closed swallows the lines behind it, so reading goes on right after the line where the broken
    record began. Swallowed lines that hold a quote themselves may be the broken record's rest: they count as bad, too.
    """
    lines = text.lines
    skipped, swallowed = 0, 0  # lines before the reader's first; the last line that a broken record reached
    separator = _separator(lines)
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
            bad_rows.add(number, _not_utf8(file, number))
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


def _check_header(file: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        what_en = f"the column {twice[0]!r} appears twice" if twice and twice[0] else "a column has no name"
        what_zh = f"列 {twice[0]!r} 出现了两次" if twice and twice[0] else "有一列没有名字"
        raise DataError(
            f"{file.name}, line 1: {what_en}. Give every column a name of its own.",
            f"{file.name} 第 1 行：{what_zh}。请为每一列起不同的名字。",
        )
    if len(names) == 1 and "|" in names[0]:
        raise DataError(
            f"{file.name}, line 1: expected columns separated by commas, found one column {names[0]!r}. "
            "Export the file again with commas.",
            f"{file.name} 第 1 行：列之间应以逗号分隔，实际只有一列 {names[0]!r}。请用逗号分隔重新导出。",
        )
