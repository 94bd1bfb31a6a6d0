"""Answers of an evaluation that is under way, a line each, so that one that was killed goes on where it was.

Knows the file, and what makes answers those of another evaluation. Knows no model and no score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from chatglm2.files import open_regular
from training.data.encoding import Example
from training.evaluation.answering import Answer
from training.runs.storage import explaining_storage_errors, write_atomically


class _Head(BaseModel):
    """The first line: what is answered, by whom and how."""

    evaluation: str


class _Line(BaseModel):
    """The answers to a row, each with whether it is cut; ``row`` counts from 0.

    It names its evaluation: another one may take the file while this one's process still adds to it.
    """

    evaluation: str
    row: int
    answers: list[tuple[str, bool]]


def fingerprint(examples: Sequence[Example], **circumstances: Any) -> str:
    """The same for evaluations that would answer every row alike."""
    content = {"examples": [asdict(example) for example in examples], **circumstances}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def weights_stamp(directory: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a model's files: what changes when other weights take their place."""
    found = [(item.name, item.stat()) for item in sorted(directory.iterdir()) if item.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


class Journal:
    """The answers so far, in a file beside the results.

    Args:
        file: where; there only while an evaluation is under way, or was cut off.
        evaluation: the `fingerprint` of what is evaluated.
        contenders: who answer each row.
    """

    def __init__(self, file: Path, evaluation: str, contenders: int) -> None:
        self.file = file
        self._evaluation = evaluation
        self._contenders = contenders

    def begin(self, rows: int) -> dict[int, list[Answer]]:
        """What was answered before, of ``rows`` rows; answers of another evaluation are forgotten."""
        found = {row: answers for row, answers in self._read().items() if row < rows}
        lines = [_Head(evaluation=self._evaluation), *(self._line(row, answers) for row, answers in found.items())]
        with explaining_storage_errors(self.file):
            write_atomically(self.file, "".join(f"{line.model_dump_json()}\n" for line in lines))
        return found

    def append(self, row: int, answers: Sequence[Answer]) -> None:
        """Keep the answers to a row, whatever happens to this process."""
        with explaining_storage_errors(self.file), self.file.open("a", encoding="utf-8") as file:
            file.write(f"{self._line(row, answers).model_dump_json()}\n")

    def _read(self) -> Mapping[int, list[Answer]]:
        try:
            with open_regular(self.file) as file:
                head, *lines = file.read().splitlines()
            is_same = _Head.model_validate_json(head).evaluation == self._evaluation
        except (OSError, ValueError):
            return {}
        found = {}
        for text in lines if is_same else ():
            try:
                line = _Line.model_validate_json(text)
            except ValidationError:  # cut off in the middle
                continue
            if line.evaluation == self._evaluation and line.row >= 0 and len(line.answers) == self._contenders:
                found[line.row] = [Answer(*answer) for answer in line.answers]
        return found

    def _line(self, row: int, answers: Sequence[Answer]) -> _Line:
        told = [(answer.text, answer.is_cut) for answer in answers]
        return _Line(evaluation=self._evaluation, row=row, answers=told)
