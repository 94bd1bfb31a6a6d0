"""Answers that a reader liked or put right, as rows that training reads.

A row says who answered, how strongly, from which seed, so that it can be traced; the trainer reads prompt, response and
history, and leaves the rest alone. Knows conversations and one file; does not know who may write it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.chat.conversation import PANES, Conversation
from training.runs.storage import changing, explaining_storage_errors, write_atomically

Row = dict[str, Any]
READ_BY_TRAINING = ("prompt", "response", "history")


def row_of(conversation: Conversation, index: int, pane: str) -> Row:
    """The answer of ``pane`` in round ``index``, with the rounds that it was given after."""
    entry = conversation.rounds[index]
    answer = entry.answers[pane]
    history = [] if answer.stands_alone else conversation.history(pane, index)
    return {
        "prompt": entry.question,
        "response": answer.text,
        "history": [list(exchange) for exchange in history],
        "answered_by": answer.source,
        "strengths": answer.strengths,
        "seed": answer.seed,
        "edited": answer.edited,
    }


def liked_rows(conversation: Conversation) -> list[Row]:
    """Of every answer in it that is liked."""
    places = [(index, pane) for index in range(len(conversation.rounds)) for pane in PANES]
    return [row_of(conversation, *place) for place in places if conversation.rounds[place[0]].answers[place[1]].liked]


def to_lines(rows: list[Row]) -> str:
    """JSON Lines, as training reads them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class LikedRows:
    """All rows that were collected on this machine, in one file; each is there once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, row: Row) -> None:
        """Raises `RunError` where the file cannot be written, as `remove` does."""
        self._change(lambda lines: [*lines, to_lines([row]).strip()], row)

    def remove(self, row: Row) -> None:
        self._change(lambda lines: lines, row)

    def _change(self, change: Callable[[list[str]], list[str]], row: Row) -> None:
        with explaining_storage_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with changing(self.file):
                text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
                lines = [line for line in text.split("\n") if line.strip()]
                changed = change([line for line in lines if not _is_same(line, row)])
                if changed:
                    write_atomically(self.file, "\n".join(changed) + "\n")
                else:
                    self.file.unlink(missing_ok=True)


def _is_same(line: str, row: Row) -> bool:
    """Whether a line trains the same as ``row``; what somebody else wrote there is none of ours."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(found.get(name) == row[name] for name in READ_BY_TRAINING)
