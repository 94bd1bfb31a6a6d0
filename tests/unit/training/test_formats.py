"""Every format and encoding gives the same examples, and says as what it was read."""

from __future__ import annotations

import datetime
import io
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from chatglm2.errors import DataError
from training.data.columns import find_columns
from training.data.encoding import Example, read_examples
from training.data.files import Table, read_table
from training.settings.train import TrainingSettings

ROWS = [Example("上衣，白色", "这件上衣很百搭。"), Example("裤子", "显瘦。")]
CELLS = [["content", "summary"], *([row.prompt, row.response] for row in ROWS)]


def examples_of(table: Table, **settings: object) -> list[Example]:
    return read_examples(table, find_columns(table, TrainingSettings.from_dict(settings)))[0]


def table_of(directory: Path, name: str, content: bytes) -> Table:
    file = directory / name
    file.write_bytes(content)
    return read_table(file)


def workbook(rows: list[list[Any]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="reading Excel needs openpyxl")
    book, written = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.create_sheet("notes").append(["not this one"])
    book.save(written)
    return written.getvalue()


def parquet(columns: dict[str, list[Any]]) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 (BOM)"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("gbk", "GBK"),
    ],
)
@pytest.mark.parametrize(
    ("name", "mark", "marks"),
    [
        ("rows.csv", ",", "commas"),
        ("rows.csv", ";", "semicolons"),
        ("rows.csv", "\t", "tabs"),
        ("rows.tsv", "\t", "tabs"),
    ],
)
def test_a_table_in_any_encoding_gives_the_same_rows(
    tmp_path: Path, encoding: str, said: str, name: str, mark: str, marks: str
) -> None:
    text = "\n".join(mark.join(cells) for cells in CELLS)
    table = table_of(tmp_path, name, text.encode(encoding))
    assert examples_of(table) == ROWS
    assert table.read_as[0] == f"{said}, cells separated by {marks}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "gbk", "gb18030"])
def test_json_in_any_encoding_gives_the_same_rows(tmp_path: Path, encoding: str) -> None:
    rare = "𠮷野家" if encoding != "gbk" else "吉野家"  # GB18030 has four bytes for the first
    lines = f'{{"content": "上衣", "summary": "这件上衣很百搭。"}}\n{{"content": "裤子", "summary": "{rare}"}}'
    table = table_of(tmp_path, "rows.jsonl", lines.encode(encoding))
    assert [example.response for example in examples_of(table)] == ["这件上衣很百搭。", rare]


def test_a_tsv_file_may_have_commas_in_its_names(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.tsv", "问, 题\t回答\n上衣\t百搭\n".encode())
    assert table.columns == ("问, 题", "回答")


def test_a_workbooks_first_sheet_is_read_by_excels_own_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.xlsx", workbook([*CELLS[:2], [], CELLS[2]]))
    assert (examples_of(table), table.place(1)[0], table.read_as[0]) == (ROWS, "row 4", "Excel")


def test_cells_with_types_become_the_text_that_excel_shows(tmp_path: Path) -> None:
    cells = [3, 2.5, 4.0, True, datetime.datetime(2024, 5, 1), "五"]
    table = table_of(tmp_path, "rows.xlsx", workbook([["content", "summary"], *([cell, "一"] for cell in cells)]))
    assert [example.prompt for example in examples_of(table)] == ["3", "2.5", "4", "TRUE", "2024-05-01", "五"]


def test_columns_of_a_workbook_that_are_only_formatted_are_left_out(tmp_path: Path) -> None:
    book = workbook([["content", "summary", None, ""], ["上衣", "百搭", None, ""], ["裤子", "显瘦"]])
    assert table_of(tmp_path, "rows.xlsx", book).columns == ("content", "summary")


def test_without_openpyxl_a_workbook_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match="Save the sheet as CSV UTF-8, or run"):
        table_of(tmp_path, "rows.xlsx", b"PK")


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    columns = {"content": [row.prompt for row in ROWS], "summary": [row.response for row in ROWS]}
    table = table_of(tmp_path, "rows.parquet", parquet(columns))
    assert (examples_of(table), table.place(1)[0], table.read_as[0]) == (ROWS, "row 2", "Parquet")


def test_parquet_holds_conversations_numbers_and_bytes(tmp_path: Path) -> None:
    said = [[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "嗨"}]]
    columns = {"messages": said, "score": [1.5], "picture": [b"\xff\xd8"], "note": ["是".encode()]}
    table = table_of(tmp_path, "rows.parquet", parquet(columns))
    assert examples_of(table) == [Example("你好", "嗨")]
    assert [table.rows[0][name] for name in ("score", "picture", "note")] == ["1.5", None, "是"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.xlsx"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PAR1PAR1", b"content,summary\na,b\n"])
def test_a_file_that_is_not_what_its_name_says_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes
) -> None:
    if name == "rows.xlsx":
        pytest.importorskip("openpyxl", reason="reading Excel needs openpyxl")
    with pytest.raises(DataError, match=rf"{name} cannot be read as (Excel|Parquet)"):
        table_of(tmp_path, name, content)


def test_one_column_cannot_be_both_prompt_and_answer(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.csv", "content,summary\n上衣,百搭\n".encode())
    with pytest.raises(DataError, match="'content' cannot be both the prompt and the answer") as refusal:
        examples_of(table, prompt_column="content", response_column="content")
    assert "不能既是提示又是回答" in refusal.value.zh
    with pytest.raises(DataError, match="'content' cannot be both the history and"):
        examples_of(table, prompt_column="content", response_column="summary", history_column="content")
