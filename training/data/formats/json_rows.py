"""Rows of JSON: one object a line, an array of them, or an object with the array under ``data``.

Knows how people break JSON, and says where; does not know which column means what.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError
from training.data.bad_rows import BadRows
from training.data.formats.rows import Rows, columns_of
from training.data.formats.text import FileText, is_valid_text, not_text

SNIPPET_CHARACTERS = 40
WRAPPER = "data"


def read_json(file: Path, text: FileText, bad_rows: BadRows) -> Rows:
    """The objects of a file, with their lines; of an array, with their numbers.

    Raises:
        DataError: for a row, or a whole array, that is broken.
    """
    wrapped = _wrapped_rows(text)
    if wrapped is not None or text.content.lstrip().startswith("["):
        return _json_array(file, text, bad_rows, wrapped)
    rows, lines = [], []
    for number, line in enumerate(text.content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            if number in text.damaged:
                raise not_text(file, number)
            row = _checked_object(file, _parse_json(file, number, line), f"line {number}", f"第 {number} 行")
        except DataError as error:
            bad_rows.add(number, error)
            continue
        rows.append(row)
        lines.append(number)
    return Rows(columns_of(rows), rows, lines)


def _wrapped_rows(text: FileText) -> list[Any] | None:
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


def _json_array(file: Path, text: FileText, bad_rows: BadRows, wrapped: list[Any] | None) -> Rows:
    if text.damaged:
        raise _whole_array(not_text(file, min(text.damaged)), bad_rows)
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
    return Rows(columns_of(rows), rows, numbers, counts_rows=True)


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


def _checked_object(file: Path, row: Any, place_en: str, place_zh: str) -> dict[str, Any]:
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
