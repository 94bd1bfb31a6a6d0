"""Rows in the shapes that public data sets have, with columns for prompt and answer added to them.

Knows Alpaca's instruction and input, ShareGPT's conversations and chat messages. Does not know files, nor which columns
a user chose: what a row held stays in it, so that every other choice of columns remains possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chatglm2.errors import DataError

TASK_COLUMN = "instruction + input"
# Column names people use, most common first; the original's data is the first pair, its chat data the second.
KNOWN_COLUMNS = (
    ("content", "summary"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    (TASK_COLUMN, "output"),
    ("instruction", "output"),
    ("input", "output"),
    ("source", "target"),
    ("问题", "回答"),
    ("问", "答"),
)
CONVERSATION_COLUMNS = ("conversations", "conversation", "messages")
ASKING = frozenset({"user", "human"})
ANSWERING = frozenset({"assistant", "gpt", "bot", "chatglm"})
# Each round takes ten tokens at least, so more than this is beyond what the model can see.
MOST_ROUNDS = 1024
SHOWN_CHARACTERS = 60

Row = dict[str, Any]
Unfold = Callable[[Row], list[Row]]


def find_shape(columns: Sequence[str], rows: Sequence[Row]) -> Unfold | None:
    """How to turn a row into rows with a prompt's and an answer's column, or None where the row says it plainly.

    The function raises a `DataError` without a place for a row that is not what its columns promise.
    """
    if {"instruction", "input", "output"} <= set(columns):
        return _with_task
    if any(prompt in columns and response in columns for prompt, response in KNOWN_COLUMNS):
        return None
    named = (name for name in CONVERSATION_COLUMNS if name in columns)
    column = next((name for name in named if any(isinstance(row.get(name), list) for row in rows)), None)
    return None if column is None else lambda row: _with_answers(row, column)


def _with_task(row: Row) -> list[Row]:
    """Alpaca's row: what to do, then, on a line of its own, what to do it with."""
    instruction, text = row.get("instruction"), row.get("input")
    if isinstance(instruction, str) and isinstance(text, str):
        return [{**row, TASK_COLUMN: "\n".join(part for part in (instruction, text) if part.strip())}]
    return [{**row, TASK_COLUMN: instruction or text}]


def _with_answers(row: Row, column: str) -> list[Row]:
    """A conversation's row: one for every answer, with the rounds before it as history.

    A conversation without any answer is one row with an empty one, which is counted among those that are left out.
    """
    rounds: list[list[str]] = []
    answers: list[Row] = []
    for question, answer in _rounds(row, column):
        history = rounds[-MOST_ROUNDS:]
        answers.append({**row, "prompt": question, "response": answer, "history": history})
        if question and answer:
            rounds.append([question, answer])
    learnt = [answer for answer in answers if answer["response"]]
    return learnt or answers[:1] or [{**row, "prompt": "", "response": "", "history": []}]


def _rounds(row: Row, column: str) -> Iterator[tuple[str, str]]:
    """Questions with their answers; what one side says in several messages is joined by line breaks."""
    asked = [row["system"]] if isinstance(row.get("system"), str) and row["system"].strip() else []
    answered: list[str] = []
    for role, text in _messages(row, column):
        if role in ANSWERING:
            answered.append(text)
            continue
        if answered:
            yield "\n".join(asked), "\n".join(answered)
            asked, answered = [], []
        asked.append(text)
    if asked or answered:
        yield "\n".join(asked), "\n".join(answered)


def _messages(row: Row, column: str) -> Iterator[tuple[str, str]]:
    """Who says what; a system message stands before the question that follows it, as the model has no place for it."""
    messages = row.get(column)
    if not isinstance(messages, list):
        raise _not_a_message(column, messages)
    for message in messages:
        if not isinstance(message, dict):
            raise _not_a_message(column, message)
        role = message.get("role", message.get("from"))
        text = message.get("content", message.get("value"))
        if not isinstance(text, str) or not isinstance(role, str) or role not in {*ASKING, *ANSWERING, "system"}:
            raise _not_a_message(column, message)
        yield role, text


def _not_a_message(column: str, found: Any) -> DataError:
    shown = repr(found)[:SHOWN_CHARACTERS]  # half a character in it is spelt out
    return DataError(
        f'{column!r} must be a list of messages such as {{"role": "user", "content": "…"}} or {{"from": "human", '
        f'"value": "…"}}, said by user, assistant or system; found {shown}. Mend this row or remove it.',
        f'{column!r} 应为消息列表，例如 {{"role": "user", "content": "…"}} 或 {{"from": "human", "value": "…"}}，'
        f"说话者为 user、assistant 或 system；实际为 {shown}。请修改或删除这一条。",
    )
