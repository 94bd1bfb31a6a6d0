"""A row that cannot be used is named and refused, or counted and left out, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm2.errors import DataError
from training.data.columns import find_columns
from training.data.encoding import Example, read_examples
from training.data.files import Table, read_table
from training.settings.train import TrainingSettings

GOOD = '{"prompt": "上衣", "response": "百搭。", "history": []}'
HEADER = "prompt,response,history"
BROKEN_LINES = {
    "syntax": '{"prompt": "裤", "response": }',
    "no object": "42",
    "missing column": '{"prompt": "裤"}',
    "number": '{"prompt": 7, "response": "b"}',
    "list with half a character": '{"prompt": ["\\ud83d"], "response": "b"}',
    "half a character": '{"prompt": "\\ud83d", "response": "b"}',
    "half a character as name": '{"prompt": "a", "response": "b", "\\ud83d": 1}',
    "half a character in history": '{"prompt": "a", "response": "b", "history": [["\\ud83d", "c"]]}',
    "history of one": '{"prompt": "a", "response": "b", "history": [["q"]]}',
    "history of numbers": '{"prompt": "a", "response": "b", "history": [[1, 2]]}',
    "history in words": '{"prompt": "a", "response": "b", "history": "none so far"}',
    "endless number": '{"prompt": ' + "1" * 5000 + ', "response": "b"}',
    "endless brackets": "[" * 100_000 + "]" * 100_000,
}
BROKEN_CELLS = {
    "too many": "a,b,,c",
    "too few": "a",
    "stray quote": 'a,"b"c,',
    "history": 'a,b,"[[1, 2]]"',
    "history in words": "a,b,none",
}


def write(directory: Path, name: str, content: str | bytes) -> Path:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(file: Path, *, skip: bool) -> tuple[Table, list[Example]]:
    table = read_table(file, skip_bad_rows=skip)
    return table, read_examples(table, find_columns(table, TrainingSettings()))[0]


@pytest.mark.parametrize("kind", BROKEN_LINES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_broken_line_is_named_or_skipped(tmp_path: Path, kind: str, suffix: str) -> None:
    file = write(tmp_path, f"rows{suffix}", f"{GOOD}\n\n{BROKEN_LINES[kind]}\n{GOOD}\n")
    with pytest.raises(DataError) as refusal:
        read(file, skip=False)
    assert f"rows{suffix}, line 3" in refusal.value.en
    assert f"rows{suffix} 第 3 行" in refusal.value.zh
    for sentence in (refusal.value.en, refusal.value.zh):
        assert "--skip_bad_rows" in sentence
        sentence.encode("utf-8")  # can be printed and stored
    table, examples = read(file, skip=True)
    assert len(examples) == 2
    assert table.bad_rows.numbers == [3]


@pytest.mark.parametrize("kind", sorted(set(BROKEN_LINES) - {"syntax", "endless number", "endless brackets"}))
def test_a_bad_item_of_an_array_is_named_or_skipped_by_its_number(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, "rows.json", f"[{GOOD},\n{BROKEN_LINES[kind]},\n{GOOD}]")
    with pytest.raises(DataError, match=r"rows\.json, row 2.*--skip_bad_rows"):
        read(file, skip=False)
    table, examples = read(file, skip=True)
    assert (len(examples), table.bad_rows.numbers) == (2, [2])
    assert "(row 2)" in table.bad_rows.describe("rows.json")[0]


@pytest.mark.parametrize("kind", BROKEN_CELLS)
def test_a_broken_csv_row_is_named_or_skipped(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, "rows.csv", f"{HEADER}\n上衣,百搭。,\n{BROKEN_CELLS[kind]}\n裤,百搭。,\n")
    with pytest.raises(DataError, match=r"rows\.csv, line 3.*--skip_bad_rows"):
        read(file, skip=False)
    table, examples = read(file, skip=True)
    assert [example.prompt for example in examples] == ["上衣", "裤"]
    assert table.bad_rows.numbers == [3]


def test_a_quote_that_is_never_closed_costs_its_own_row_only(tmp_path: Path) -> None:
    rows = "".join(f"裤{index},百搭。,\n" for index in range(50))
    file = write(tmp_path, "rows.csv", f'{HEADER}\n上衣,"百搭。,\n{rows}')
    table, examples = read(file, skip=True)
    assert len(examples) == 50
    assert table.bad_rows.numbers == [2]


def test_the_rest_of_a_torn_csv_row_is_not_taken_for_a_row(tmp_path: Path) -> None:
    file = write(tmp_path, "rows.csv", f'{HEADER}\na,"b\nno row"x,either,\n裤,百搭。,\n')
    table, examples = read(file, skip=True)
    assert [example.prompt for example in examples] == ["裤"]
    assert table.bad_rows.numbers == [2, 3]


@pytest.mark.parametrize("name", ["rows.json", "rows.csv"])
def test_a_line_of_broken_bytes_does_not_make_the_file_gbk(tmp_path: Path, name: str) -> None:
    good = GOOD.encode() if name.endswith("json") else "上衣,百搭。,".encode()
    head = b"" if name.endswith("json") else HEADER.encode() + b"\n"
    bad = good.replace("上".encode(), "上".encode()[:2])
    file = write(tmp_path, name, head + b"\n".join([good, bad, good, good]))
    number = 2 + bool(head)
    with pytest.raises(DataError, match=rf"line {number}: the bytes are not UTF-8.*--skip_bad_rows"):
        read(file, skip=False)
    table, examples = read(file, skip=True)
    assert (len(examples), table.bad_rows.numbers) == (3, [number])


def test_an_array_with_a_syntax_error_says_that_it_cannot_be_skipped(tmp_path: Path) -> None:
    file = write(tmp_path, "rows.json", f"[{GOOD},\n{GOOD}\n{GOOD}]")
    with pytest.raises(DataError, match=r"line 3, column 1.*can only be read as a whole, so --skip_bad_rows cannot"):
        read_table(file, skip_bad_rows=True)


def test_a_file_of_nothing_but_broken_rows_is_refused(tmp_path: Path) -> None:
    for content in ("{\n" * 9, '{"prompt": "a", "response": 1}\n' * 9):
        with pytest.raises(DataError, match=r"none of its rows can be used, 9 are broken\. The first: rows\.json, l"):
            read(write(tmp_path, "rows.json", content), skip=True)


def test_a_csv_file_with_a_broken_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: broken CSV"):
        read(write(tmp_path, "rows.csv", 'prompt,"response"x\na,b\n'), skip=True)


def test_many_bad_rows_are_counted_and_the_first_few_are_told(tmp_path: Path) -> None:
    table, _ = read(write(tmp_path, "rows.json", f"{GOOD}\n" + "{\n" * 1000), skip=True)
    en, zh = table.bad_rows.describe("rows.json")
    assert en.startswith("rows.json: 1000 broken rows are skipped (lines 2, 3, 4, 5, 6…). The first: rows.json, line 2")
    assert zh.startswith("rows.json：跳过了 1000 行有误的数据（第 2、3、4、5、6… 行）。第一处：rows.json 第 2 行")
    assert len(table.bad_rows.first) < 10
