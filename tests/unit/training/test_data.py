"""A data file either becomes examples or gets a sentence that names file, line and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from chatglm2 import ChatGLMTokenizer, load_tokenizer
from chatglm2.errors import DataError
from training.data.columns import KNOWN_COLUMNS, ColumnMapping, find_columns, find_prompt_column
from training.data.encoding import Example, ExampleEncoder, read_examples
from training.data.files import read_table
from training.settings.train import TrainingSettings

ROW = '{"content": "上衣", "summary": "这件上衣很百搭。"}'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    return load_tokenizer(write_tiny_checkpoint(tmp_path_factory.mktemp("model")))


def examples_of(file: Path, **settings: object) -> list[Example]:
    table = read_table(file)
    return read_examples(table, find_columns(table, TrainingSettings.from_dict(settings)))[0]


def write(directory: Path, name: str, content: str | bytes) -> Path:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", f"{ROW}\n{ROW}\n"),
        ("lines.jsonl", f"{ROW}\r\n\r\n{ROW}"),
        ("marked.json", b"\xef\xbb\xbf" + f"{ROW}\n{ROW}".encode()),
        ("array.json", f"[\n{ROW},\n{ROW}\n]"),
        ("table.csv", "content,summary\n上衣,这件上衣很百搭。\n\n上衣,这件上衣很百搭。\n"),
        ("semicolons.csv", "content;summary\n上衣;这件上衣很百搭。\n上衣;这件上衣很百搭。\n"),
        ("excel.csv", "content\tsummary\r\n上衣\t这件上衣很百搭。\r\n上衣\t这件上衣很百搭。\r\n".encode("utf-16")),
        ("wide.json", f"{ROW}\n{ROW}\n".encode("utf-16")),
        (
            "marked.CSV",
            b"\xef\xbb\xbf" + 'content,summary\r\n上衣,"这件上衣很百搭。"\r\n上衣,这件上衣很百搭。'.encode(),
        ),
    ],
)
def test_every_way_to_write_rows_gives_the_same_examples(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert examples_of(write(tmp_path, name, content)) == [Example("上衣", "这件上衣很百搭。")] * 2


def test_csv_cells_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    file = write(tmp_path, "table.csv", 'prompt,response\n"a, ""b""","line 1\nline 2"\n')
    assert examples_of(file) == [Example('a, "b"', "line 1\nline 2")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.json", "", "empty.json is empty"),
        ("blank.csv", " \n\n", "blank.csv is empty"),
        ("header.csv", "content,summary\n", "has a header but no rows"),
        ("nothing.json", "[]", "no rows"),
        ("rows.txt", ROW, "a name that ends in .json, .jsonl, .csv"),
        ("broken.json", f'{ROW}\n{{"content": "裤", "summary": }}\n', "broken.json, line 2, column 29: broken JSON"),
        ("broken_array.json", f"[{ROW},\n{ROW}\n{ROW}]", "broken_array.json, line 3, column 1: broken JSON"),
        ("words.json", f"{ROW}\n42\n", "words.json, line 2: expected an object with named columns, found int"),
        ("array.json", f"[{ROW}, [1]]", "array.json, row 2: expected an object"),
        ("utf16.csv", "content,summary\n".encode("utf-16")[:-1], "utf16.csv looks like UTF-16"),
        ("latin.csv", "content,summary\ncafé noir,élève très doué\n".encode("latin-1"), "latin.csv, line 2: the bytes"),
        ("west.csv", "content,summary\nélève,très\n".encode("latin-1"), "west.csv is in neither UTF-8"),
        ("binary.json", b'{"content": "\xff\xff\xff"}', "binary.json, line 1: the bytes are not UTF-8"),
        ("cells.csv", "content,summary\na,b\nc\n", "cells.csv, line 3: expected 2 cells"),
        ("quotes.csv", 'content,summary\na,"b\n', "quotes.csv, line 2: broken CSV"),
        ("twice.csv", "content,content\na,b\n", "the column 'content' appears twice"),
        ("bars.csv", "content|summary\na|b\n", "expected columns separated by commas"),
        ("tabs.csv", "content\tsummary\na\n", "tabs.csv, line 2: expected 2 cells"),
        ("slip.json", '{"content": "a", "summaty": "b"}', "Is 'summaty' a slip for 'summary'?"),
        ("slip_later.json", f'{ROW}\n{{"content": "a", "summaty": "b"}}', "line 2: the column 'summary' is missing"),
        ("number.json", '{"content": 7, "summary": "b"}', "line 1: 'content' must be text in quotes, found 7"),
        ("half.json", '{"content": "\\ud83d", "summary": "b"}', "line 1: 'content' holds half a character"),
        ("blanks.json", '{"content": "", "summary": "b"}', "every row has an empty 'content' or 'summary'"),
        (
            "history.json",
            '{"prompt": "a", "response": "b", "history": [["q"]]}',
            'line 1: \'history\' must be a list of rounds [["question", "answer"], …], found ["q"]',
        ),
    ],
)
def test_a_mistake_is_named_by_file_line_and_column(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(DataError) as complaint:
        examples_of(write(tmp_path, name, content))
    assert sentence in complaint.value.en
    assert name in complaint.value.zh


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "train.json", ROW)
    with pytest.raises(DataError, match=r"Beside it there is train\.json"):
        read_table(tmp_path / "trian.json")


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "rows.json")


def test_a_wrong_column_name_names_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path, "rows.json", ROW)
    with pytest.raises(DataError, match="Did you mean 'summary'"):
        examples_of(file, prompt_column="content", response_column="summaty")


def test_naming_one_column_asks_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--response_column is missing"):
        examples_of(write(tmp_path, "rows.json", ROW), prompt_column="content")


def test_rows_without_prompt_or_answer_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"content": "a", "summary": "b"}, {"content": "", "summary": "b"}, {"content": "a", "summary": None}]
    table = read_table(write(tmp_path, "rows.json", json.dumps(rows)))
    examples, dropped = read_examples(table, ColumnMapping("content", "summary"))
    assert (len(examples), dropped) == (1, 2)


def test_only_the_first_rows_are_read_if_asked(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "rows.json", f"{ROW}\n" * 5))
    assert len(read_examples(table, ColumnMapping("content", "summary"), limit=2)[0]) == 2


def test_history_may_be_missing_empty_or_a_csv_cell(tmp_path: Path) -> None:
    row = {"prompt": "q", "response": "a", "history": [["早", "早上好"]]}
    lines = [row, {**row, "history": None}, {**row, "history": []}, {"prompt": "q", "response": "a"}]
    file = write(tmp_path, "chat.json", "\n".join(json.dumps(line) for line in lines))
    assert [example.history for example in examples_of(file)] == [(("早", "早上好"),), (), (), ()]
    table = write(tmp_path, "chat.csv", 'prompt,response,history\nq,a,"[[""早"", ""早上好""]]"\nq,a,\n')
    assert [example.history for example in examples_of(table)] == [(("早", "早上好"),), ()]


@pytest.mark.parametrize("named", [{}, {"prompt_column": "prompt", "response_column": "response"}])
def test_the_history_column_that_is_named_is_read(tmp_path: Path, named: dict[str, str]) -> None:
    row = {"prompt": "q", "response": "a", "history": [["x", "y"]], "dialogue": [["早", "早上好"]]}
    file = write(tmp_path, "chat.json", json.dumps(row))
    assert examples_of(file, history_column="dialogue", **named)[0].history == (("早", "早上好"),)
    with pytest.raises(DataError, match="Did you mean 'dialogue'"):
        examples_of(file, history_column="dialoge", **named)


@pytest.mark.parametrize(("prompt", "response"), KNOWN_COLUMNS)
def test_columns_with_well_known_names_are_told_apart_in_any_order(tmp_path: Path, prompt: str, response: str) -> None:
    rows = [{response: "答案", prompt: "提问"}, {prompt: "提问", response: "答案"}]
    for number, row in enumerate(rows):
        file = write(tmp_path, f"rows{number}.json", json.dumps(row))
        assert examples_of(file) == [Example("提问", "答案")]
        assert find_prompt_column(read_table(file), TrainingSettings()) == prompt


def test_each_well_known_name_means_one_thing() -> None:
    prompts, responses = ({pair[place] for pair in KNOWN_COLUMNS} for place in (0, 1))
    assert not prompts & responses
    assert {"content", "问题", "问"} <= prompts and {"summary", "回答", "答"} <= responses


def test_named_columns_without_history_ignore_it(tmp_path: Path) -> None:
    row = {"prompt": "q", "response": "a", "history": [["x", "y"]]}
    file = write(tmp_path, "chat.json", json.dumps(row))
    assert examples_of(file, prompt_column="prompt", response_column="response")[0].history == ()


def test_only_the_answer_and_its_end_are_learnt(tokenizer: ChatGLMTokenizer) -> None:
    encoded = ExampleEncoder(tokenizer, TrainingSettings()).encode(Example("上衣", "百搭。"))
    prompt = tokenizer.encode_prompt("上衣")
    answer = [*tokenizer.encode_text("百搭。"), tokenizer.eos_token_id]
    assert encoded.input_ids == prompt + answer
    assert encoded.labels == [-100] * len(prompt) + answer


def test_rounds_are_marked_as_the_model_knows_them(tokenizer: ChatGLMTokenizer) -> None:
    example = Example("上衣", "百搭。", (("早", "早上好"), ("好", "你好")))
    encoded = ExampleEncoder(tokenizer, TrainingSettings()).encode(example)
    learnt = encoded.labels.index(next(label for label in encoded.labels if label != -100))
    assert encoded.input_ids[:2] == tokenizer.get_prefix_tokens()
    assert tokenizer.decode(encoded.input_ids[:learnt]) == (
        "[Round 1]\n\n问：早\n\n答：早上好\n\n[Round 2]\n\n问：好\n\n答：你好\n\n[Round 3]\n\n问：上衣\n\n答："
    )
    assert tokenizer.decode(encoded.input_ids[learnt:]) == "百搭。"


def test_prompts_are_learnt_as_padding_where_the_original_says_so(tokenizer: ChatGLMTokenizer) -> None:
    settings = TrainingSettings(ignore_pad_token_for_loss=False)
    encoded = ExampleEncoder(tokenizer, settings).encode(Example("上衣", "百搭。"))
    assert set(encoded.labels[: len(tokenizer.encode_prompt("上衣"))]) == {0}


def test_an_overlong_answer_is_cut_and_still_ends(tokenizer: ChatGLMTokenizer) -> None:
    encoded = ExampleEncoder(tokenizer, TrainingSettings(max_target_length=3)).encode(Example("上衣", "百搭" * 20))
    learnt = [label for label in encoded.labels if label != -100]
    assert learnt == [*tokenizer.encode_text("百搭" * 20)[:3], tokenizer.eos_token_id]


@pytest.mark.parametrize("limit", [40, 41, 42, 43, 60])
def test_a_shortened_prompt_fits_and_still_asks_for_an_answer(tokenizer: ChatGLMTokenizer, limit: int) -> None:
    encoder = ExampleEncoder(tokenizer, TrainingSettings(max_source_length=limit))
    ids = encoder.encode_prompt(Example("颜色#红色" * 40, "好"))
    assert limit - 4 < len(ids) <= limit
    text = tokenizer.decode(ids)
    assert text.startswith("[Round 1]\n\n问：颜色#红色")
    assert text.endswith("\n\n答：")


def test_a_long_history_loses_its_oldest_rounds_first(tokenizer: ChatGLMTokenizer) -> None:
    history = tuple((f"问题{number}", "白色" * 10) for number in range(6))
    encoder = ExampleEncoder(tokenizer, TrainingSettings(max_source_length=150))
    text = tokenizer.decode(encoder.encode_prompt(Example("最后的问题", "好", history)))
    assert "问题0" not in text
    assert "问题5" in text
    assert text.endswith("问：最后的问题\n\n答：")


def test_the_originals_truncation_cuts_the_end(tokenizer: ChatGLMTokenizer) -> None:
    settings = TrainingSettings(max_source_length=30, truncation="original")
    ids = ExampleEncoder(tokenizer, settings).encode_prompt(Example("颜色#红色" * 40, "好"))
    assert ids == tokenizer.encode_prompt("颜色#红色" * 40)[:30]


def test_a_limit_without_room_for_text_is_refused(tokenizer: ChatGLMTokenizer) -> None:
    with pytest.raises(DataError, match="--max_source_length 5 leaves no room"):
        ExampleEncoder(tokenizer, TrainingSettings(max_source_length=5))


def test_the_source_prefix_stands_before_the_whole_prompt(tokenizer: ChatGLMTokenizer) -> None:
    encoder = ExampleEncoder(tokenizer, TrainingSettings(source_prefix="写广告："))
    assert tokenizer.decode(encoder.encode_prompt(Example("上衣", "好"))).startswith("写广告：[Round 1]")
