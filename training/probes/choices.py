"""Multiple-choice questions in the shape of C-Eval and CMMLU: four options A to D and the letter of the right one.

Knows the files and how a question is put to a model. Knows no model; `letters.py` scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatglm2.errors import DataError
from training.data.files import SUFFIXES, Table, read_table
from training.data.instruction import is_chinese
from training.probes.findings import LETTERS

QUESTION_NAMES, ANSWER_NAMES, SUBJECT_NAMES = ("question", "题目", "问题"), ("answer", "答案"), ("subject", "科目")
SPLIT_ENDING = re.compile(r"[_-](val|dev|test)$")
SHOWN_CHARACTERS = 20


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question; ``answer`` is the place of the right one among its four ``options``.

    ``is_chinese`` says in which language it is asked for a letter; those of a file are asked in one.
    """

    subject: str
    question: str
    options: tuple[str, str, str, str]
    answer: int
    is_chinese: bool = True

    def prompt(self) -> str:
        """What is asked: that a letter is wanted, the question, and its options."""
        instruction = "This is a multiple-choice question. Answer with the letter of the right option."
        if self.is_chinese:
            instruction = "以下是一道单项选择题，请直接回答正确选项的字母。"
        options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=True))
        return f"{instruction}\n{self.question}\n{options}"


def is_choice_file(file: Path) -> bool:
    """Whether a file's columns are a question, A to D and an answer; false for what cannot be read."""
    try:
        return file.is_file() and _find_columns(read_table(file, skip_bad_rows=True)) is not None
    except DataError:
        return False


def read_choices(place: Path, *, skip_bad_rows: bool = False) -> list[ChoiceQuestion]:
    """The questions of a file, or of all files of a directory; those without an answer are left out.

    A question's subject is what its row says, or the name of its file without ``_val``, ``_dev`` or ``_test``.

    Raises:
        DataError: for a file of another shape, a row that is no question, or where no question has an answer.
    """
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            listed = ", ".join(SUFFIXES)
            raise DataError(
                f"{place} holds no file of questions. Expected names that end in {listed}.",
                f"{place} 中没有题目文件，文件名应以 {listed} 结尾。",
            )
    return [question for file in files for question in _read_file(read_table(file, skip_bad_rows=skip_bad_rows))]


def _read_file(table: Table) -> list[ChoiceQuestion]:
    columns = _find_columns(table)
    if columns is None:
        listed = ", ".join(table.columns)
        raise DataError(
            f"{table.path.name} holds no multiple-choice questions: expected the columns question, A, B, C, D and "
            f"answer, as in C-Eval and CMMLU, found {listed}.",
            f"{table.path.name} 不是选择题文件：应有 question、A、B、C、D、answer 列（与 C-Eval、CMMLU 相同），"
            f"现有：{listed}。",
        )
    otherwise = SPLIT_ENDING.sub("", table.path.stem)
    found = []
    for index, row in enumerate(table.rows):
        try:
            question = _read_row(table, index, row, columns, otherwise)
        except DataError as error:
            table.bad_rows.add(table.lines[index], error)
            continue
        if question is not None:
            found.append(question)
    if not found and table.bad_rows.first:
        raise table.bad_rows.nothing_left(table.path.name)
    if not found:
        raise DataError(
            f"{table.path.name}: no question has an answer, so nothing can be scored. C-Eval's test files have none: "
            "use those of val.",
            f"{table.path.name}：所有题目都没有答案，无法评分。C-Eval 的 test 文件不含答案，请使用 val 文件。",
        )
    chinese = is_chinese([text for question in found for text in (question.question, *question.options)])
    return [replace(question, is_chinese=chinese) for question in found]


def _find_columns(table: Table) -> dict[str, str] | None:
    """The columns' own names by ours, capitals and spaces aside; None if one is missing. ``subject`` may be."""
    own = {name.strip().casefold(): name for name in table.columns}
    wanted = {
        **{letter: (letter.casefold(),) for letter in LETTERS},
        **{"question": QUESTION_NAMES, "answer": ANSWER_NAMES, "subject": SUBJECT_NAMES},
    }
    found = {name: own[known] for name, names in wanted.items() for known in names if known in own}
    return found if wanted.keys() - {"subject"} <= found.keys() else None


def _read_row(
    table: Table, index: int, row: dict[str, Any], columns: dict[str, str], otherwise: str
) -> ChoiceQuestion | None:
    """A row's question; None where it has no answer."""
    texts = {name: _text(row.get(column)) for name, column in columns.items()}
    letter = texts["answer"].upper()
    if not letter:
        return None
    empty = [columns[name] for name in ("question", *LETTERS) if not texts[name]]
    place_en, place_zh = table.place(index)
    if empty:
        raise DataError(
            f"{table.path.name}, {place_en}: {empty[0]!r} is empty. A question needs text, and each of its four "
            "options.",
            f"{table.path.name} {place_zh}：{empty[0]!r} 为空。题干和四个选项都必须有内容。",
        )
    if letter not in LETTERS:
        shown = texts["answer"][:SHOWN_CHARACTERS]
        raise DataError(
            f"{table.path.name}, {place_en}: the answer must be one letter, A, B, C or D; found {shown!r}.",
            f"{table.path.name} {place_zh}：答案应为 A、B、C、D 中的一个字母，实际为 {shown!r}。",
        )
    a, b, c, d = (texts[name] for name in LETTERS)
    subject = texts.get("subject") or otherwise
    return ChoiceQuestion(subject, texts["question"], (a, b, c, d), LETTERS.index(letter))


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def subjects_of(questions: Sequence[ChoiceQuestion]) -> list[str]:
    """Every subject once, in order of appearance."""
    return list(dict.fromkeys(question.subject for question in questions))
