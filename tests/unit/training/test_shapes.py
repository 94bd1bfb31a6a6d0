"""Public data sets' shapes become the examples that their authors meant; nothing of a row is lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm2.errors import DataError
from training.data.columns import find_columns
from training.data.encoding import Example, read_examples
from training.data.files import read_table
from training.settings.train import TrainingSettings

GREETED = Example("你好", "你好！")
ASKED = Example("上衣？", "百搭。", (("你好", "你好！"),))
TURNS = (("user", "你好"), ("assistant", "你好！"), ("user", "上衣？"), ("assistant", "百搭。"))
MESSAGES = {"messages": [{"role": role, "content": text} for role, text in TURNS]}
SHARED = {
    "id": 7,
    "conversations": [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS],
}


def write(directory: Path, *rows: dict[str, Any]) -> Path:
    file = directory / "data.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def examples_of(file: Path, **settings: object) -> list[Example]:
    table = read_table(file)
    return read_examples(table, find_columns(table, TrainingSettings.from_dict(settings)))[0]


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_an_alpaca_row_asks_with_its_instruction_and_its_input(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"instruction": "翻译成英文", "input": "上衣", "output": "jacket"},
        {"instruction": "讲个笑话", "input": "", "output": "好的"},
        {"instruction": "写首诗", "input": None, "output": "春"},
        {"instruction": "写副对联", "output": "福"},
    )
    prompts = ["翻译成英文\n上衣", "讲个笑话", "写首诗", "写副对联"]
    assert [example.prompt for example in examples_of(file)] == prompts


def test_an_alpaca_file_without_input_asks_with_its_instruction(tmp_path: Path) -> None:
    assert examples_of(write(tmp_path, {"instruction": "你好", "output": "你好！"})) == [GREETED]


def test_a_csv_file_has_alpacas_columns_too(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("instruction,input,output\n翻译,上衣,jacket\n讲个笑话,,好的\n", encoding="utf-8")
    assert [example.prompt for example in examples_of(file)] == ["翻译\n上衣", "讲个笑话"]


def test_named_columns_win_over_a_recognised_shape(tmp_path: Path) -> None:
    file = write(tmp_path, {"instruction": "翻译", "input": "上衣", "output": "jacket"})
    assert examples_of(file, prompt_column="input", response_column="output") == [Example("上衣", "jacket")]


@pytest.mark.parametrize("row", [MESSAGES, SHARED])
def test_every_answer_of_a_conversation_is_learnt_with_the_rounds_before_it(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    assert examples_of(write(tmp_path, row)) == [GREETED, ASKED]


def test_a_row_that_says_prompt_and_answer_itself_is_left_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path, {"prompt": "你好", "response": "你好！", **MESSAGES})
    assert examples_of(file) == [GREETED]
    assert read_table(file).columns == ("prompt", "response", "messages")


def test_a_column_of_text_that_is_called_messages_is_a_column_like_others(tmp_path: Path) -> None:
    file = write(tmp_path, {"messages": "你好", "reply": "你好！"})
    assert examples_of(file, prompt_column="messages", response_column="reply") == [GREETED]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((("system", "简短"), ("user", "你好"), ("assistant", "嗨")), [Example("简短\n你好", "嗨")]),
        ((("user", "你"), ("user", "好"), ("assistant", "嗨"), ("assistant", "！")), [Example("你\n好", "嗨\n！")]),
        ((("user", "你好"), ("assistant", "嗨"), ("user", "在吗")), [Example("你好", "嗨")]),
    ],
)
def test_messages_that_are_no_plain_rounds(
    tmp_path: Path, turns: tuple[tuple[str, str], ...], expected: list[Example]
) -> None:
    assert examples_of(write(tmp_path, messages(*turns))) == expected


def test_answers_without_a_question_are_counted_as_dropped_and_are_no_history(tmp_path: Path) -> None:
    turns = (("assistant", "欢迎"), ("user", "你好"), ("assistant", "你好！"))
    table = read_table(write(tmp_path, messages(*turns), messages(("user", "在吗")), {"messages": []}))
    examples, dropped = read_examples(table, find_columns(table, TrainingSettings()))
    assert (examples, dropped) == ([GREETED], 3)


@pytest.mark.parametrize(
    "row",
    [
        messages(("tool", "42")),
        messages(("user", ["你好"])),
        {"messages": "你好"},
        {"messages": ["你好"]},
        {"messages": [{"content": "你好"}]},
        {"other": 1},
    ],
)
def test_a_row_that_is_no_conversation_is_named_or_skipped(tmp_path: Path, row: dict[str, Any]) -> None:
    file = write(tmp_path, MESSAGES, row)
    with pytest.raises(DataError, match=r"data\.jsonl, line 2: 'messages' must be a list of messages"):
        read_table(file)
    table = read_table(file, skip_bad_rows=True)
    assert (table.lines, table.bad_rows.numbers) == ([1, 1], [2])


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_data_are_read_by_their_numbers(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "data.json"
    rows = [{"content": "你好", "summary": "你好！"}, {"content": 3, "summary": "嗨"}]
    file.write_text(json.dumps({"version": 1, "data": rows}, indent=indent), encoding="utf-8")
    table = read_table(file)
    assert (table.columns, table.place(1)[0]) == (("content", "summary"), "row 2")


TEXTS = st.text(max_size=5) | st.just("\ud83d") | st.none()
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", None, 3])
SAID = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}) | TEXTS, max_size=5)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.fixed_dictionaries({"messages": SAID | TEXTS}), min_size=1, max_size=3))
def test_whatever_messages_hold_is_learnt_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "messages.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        assert all(example.prompt and example.response for example in examples_of(file))
    except DataError as error:
        f"{error.en}{error.zh}".encode()  # half a character could not be shown
