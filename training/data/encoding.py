"""From a user's rows to examples, and from examples to ids and labels.

Knows what a cell may hold, the chat prompt and truncation. Knows no file format (`files.py`), no column's name
(`columns.py`), no batch (`batching.py`) and no model.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatglm2.errors import DataError
from training.data.columns import ColumnMapping, find_prompt_column
from training.data.files import Table
from training.data.formats.text import is_valid_text
from training.settings.train import TrainingSettings

if TYPE_CHECKING:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Example:
    """One thing to learn: the answer to a prompt, after the rounds of a history."""

    prompt: str
    response: str
    history: tuple[tuple[str, str], ...] = ()

    @property
    def characters(self) -> int:
        """A cheap stand-in for the number of tokens."""
        return len(self.prompt) + len(self.response) + sum(len(q) + len(a) for q, a in self.history)


@dataclass(frozen=True)
class EncodedExample:
    """Ids and labels of one example, without padding. Labels are ``IGNORED_LABEL`` where there is nothing to learn."""

    input_ids: list[int]
    labels: list[int]


def find_general_prompts(table: Table, settings: TrainingSettings) -> list[str]:
    """The prompts of a file that needs no answers, under a name that ``settings`` give or a well-known one."""
    column = find_prompt_column(table, settings)
    prompts = []
    for index in range(len(table.rows)):
        try:
            prompts.append(_text_cell(table, index, column))
        except DataError as error:
            table.bad_rows.add(table.lines[index], error)
    prompts = list(filter(None, prompts))
    if not prompts and table.bad_rows.first:
        raise table.bad_rows.nothing_left(table.path.name)
    if not prompts:
        raise DataError(
            f"{table.path.name}: every {column!r} is empty. Expected a question a row.",
            f"{table.path.name}：{column!r} 列全部为空。应每行一个问题。",
        )
    return prompts


def read_examples(table: Table, columns: ColumnMapping, limit: int | None = None) -> tuple[list[Example], int]:
    """The examples of the first ``limit`` rows, and how many rows were dropped because prompt or answer is empty.

    Raises:
        DataError: for a row without a column or with a value that is no text, unless the table skips bad rows; or if
            no row is left.
    """
    examples, dropped = [], 0
    for _, example in examine_rows(table, columns, limit):
        if example.prompt and example.response:
            examples.append(example)
        else:
            dropped += 1
    if examples:
        return examples, dropped
    if table.bad_rows.first and not dropped:
        raise table.bad_rows.nothing_left(table.path.name)
    raise DataError(
        f"{table.path.name}: every row has an empty {columns.prompt!r} or {columns.response!r}. "
        "Both need text in at least one row.",
        f"{table.path.name}：每一行的 {columns.prompt!r} 或 {columns.response!r} 都是空的，至少一行两者都有内容。",
    )


def examine_rows(table: Table, columns: ColumnMapping, limit: int | None = None) -> Iterator[tuple[int, Example]]:
    """The first ``limit`` rows by their place in the table, with those whose prompt or answer is empty.

    Raises:
        DataError: for a row without a column or with a value that is no text, unless the table skips bad rows.
    """
    for index in range(min(len(table.rows), limit or len(table.rows))):
        try:
            prompt = _text_cell(table, index, columns.prompt)
            response = _text_cell(table, index, columns.response)
            history = _history_cell(table, index, columns.history) if columns.history else ()
        except DataError as error:
            table.bad_rows.add(table.lines[index], error)
            continue
        yield index, Example(prompt, response, history)


class ExampleEncoder:
    """Turns examples into ids and labels in the original's layout: ``[gMASK] sop prompt answer </s>``."""

    def __init__(self, tokenizer: ChatGLMTokenizer, settings: TrainingSettings) -> None:
        self.tokenizer = tokenizer
        self.max_source_length = settings.max_source_length
        self.max_target_length = settings.max_target_length
        self.keeps_answer_cue = settings.truncation == "keep_answer_cue"
        self.source_prefix = settings.source_prefix
        self.pad_id = int(tokenizer.pad_token_id)
        self.masked_label = IGNORED_LABEL if settings.ignore_pad_token_for_loss else self.pad_id
        template = len(self._prompt_ids(""))
        if self.keeps_answer_cue and template >= self.max_source_length:
            raise DataError(
                f"--max_source_length {self.max_source_length} leaves no room for text: the prompt's frame alone takes "
                f"{template} tokens. Use a larger value.",
                f"--max_source_length {self.max_source_length} 放不下任何文本：提示的格式本身就占 {template} 个 token。"
                "请使用更大的值。",
            )

    def encode(self, example: Example) -> EncodedExample:
        """Ids and labels; too long a prompt or answer is shortened to its limit."""
        source = self.encode_prompt(example)
        target = self.tokenizer.encode_text(example.response)[: self.max_target_length]
        target.append(self.tokenizer.eos_token_id)
        # The original masks by value, so an unknown character (id 0, as padding) is not learnt either.
        learnt = [self.masked_label if token == self.pad_id else token for token in target]
        return EncodedExample(source + target, [self.masked_label] * len(source) + learnt)

    def encode_prompt(self, example: Example) -> list[int]:
        """Ids of the prompt within ``max_source_length``, ending in 答： unless the original's way is asked for."""
        ids = self._prompt_ids(example.prompt, example.history)
        if len(ids) <= self.max_source_length:
            return ids
        if not self.keeps_answer_cue:
            return ids[: self.max_source_length]
        return self._shorten(example)

    def count_tokens(self, example: Example) -> tuple[int, int]:
        """Tokens of prompt and answer before any shortening."""
        source = self._prompt_ids(example.prompt, example.history)
        return len(source), len(self.tokenizer.encode_text(example.response))

    def _prompt_ids(self, query: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        text = self.source_prefix + self.tokenizer.build_prompt(query, history)
        return self.tokenizer.get_prefix_tokens() + self.tokenizer.encode_text(text)

    def _shorten(self, example: Example) -> list[int]:
        """Drop the oldest rounds, then the end of the user's text, until the prompt fits."""
        for oldest in range(1, len(example.history) + 1):
            ids = self._prompt_ids(example.prompt, example.history[oldest:])
            if len(ids) <= self.max_source_length:
                return ids
        fitting = self._prompt_ids("")
        shortest, longest = 0, len(example.prompt)
        while longest - shortest > 1:
            middle = (shortest + longest) // 2
            ids = self._prompt_ids(example.prompt[:middle])
            if len(ids) <= self.max_source_length:
                shortest, fitting = middle, ids
            else:
                longest = middle
        return fitting


def _text_cell(table: Table, index: int, column: str) -> str:
    row = table.rows[index]
    place_en, place_zh = table.place(index)
    if column not in row:
        near = difflib.get_close_matches(column, list(row), n=1)
        found = ", ".join(row) or "nothing"
        hint_en = f" Did you mean {column!r} where it says {near[0]!r}?" if near else ""
        hint_zh = f"其中的 {near[0]!r} 是否应为 {column!r}？" if near else ""
        raise DataError(
            f"{table.path.name}, {place_en}: the column {column!r} is missing; found {found}.{hint_en}",
            f"{table.path.name} {place_zh}：缺少 {column!r} 列，只有 {found}。{hint_zh}",
        )
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(table, index, column, value, ("text in quotes", "带引号的文本"))
    return _valid_text(table, index, column, value)


def _valid_text(table: Table, index: int, column: str, value: str) -> str:
    if is_valid_text(value):
        return value
    place_en, place_zh = table.place(index)
    raise DataError(
        f"{table.path.name}, {place_en}: {column!r} holds half a character (a lone surrogate such as \\ud83d). "
        "Remove it, or write the character itself.",
        f"{table.path.name} {place_zh}：{column!r} 中有不完整的字符（如单独的 \\ud83d），请删除或写出完整字符。",
    )


def _history_cell(table: Table, index: int, column: str) -> tuple[tuple[str, str], ...]:
    value = table.rows[index].get(column)
    if isinstance(value, str) and value.strip():  # a CSV cell holds JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _wrong_history(table, index, column, value) from None
    if not value:
        return ()
    if not isinstance(value, list):
        raise _wrong_history(table, index, column, value)
    rounds = []
    for turn in value:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise _wrong_history(table, index, column, turn)
        question, answer = (_valid_text(table, index, column, text) for text in turn)
        rounds.append((question, answer))
    return tuple(rounds)


def _wrong_history(table: Table, index: int, column: str, value: Any) -> DataError:
    return _wrong_type(
        table, index, column, value, ('a list of rounds [["question", "answer"], …]', '轮次列表 [["问", "答"], …]')
    )


def _wrong_type(table: Table, index: int, column: str, value: Any, expected: tuple[str, str]) -> DataError:
    place_en, place_zh = table.place(index)
    shown = json.dumps(value, ensure_ascii=False)[:40].encode("utf-8", errors="replace").decode()
    return DataError(
        f"{table.path.name}, {place_en}: {column!r} must be {expected[0]}, found {shown}.",
        f"{table.path.name} {place_zh}：{column!r} 应为{expected[1]}，实际为 {shown}。",
    )
