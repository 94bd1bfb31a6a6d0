"""New files beside a user's: without rows that repeat others or are empty, or divided to train and to validate on.

Writes JSON lines with the columns that the file had; never changes the file itself. Does not know which file is used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

from chatglm2.errors import DataError
from training.data.doctor.checks import repeated_rows
from training.data.doctor.records import Identity, Records, question_of
from training.data.shapes import CONVERSATION_COLUMNS

SUFFIX = ".jsonl"


class Fix(StrEnum):
    """What is left out; the values are what is added to a file's name."""

    DUPLICATES = "unique"
    EMPTY = "filled"


def write_mended(records: Records, fix: Fix) -> Path:
    """A file beside the user's without such rows, and without those that cannot be read.

    Raises:
        DataError: nothing would be left, or the file cannot be written.
    """
    kept = {index for index, _ in records.usable}
    if fix is Fix.DUPLICATES:
        kept = (kept | {index for index, _ in records.empty}) - repeated_rows(records).keys()
    return _write(records, sorted(kept), fix.value)


def split_off(records: Records, share: float, seed: int) -> tuple[Path, Path]:
    """Two files beside the user's: most rows to train on, and about ``share`` of them to validate on.

    Rows that ask the same stay together, so that nothing leaks. The same file, share and seed give the same files.

    Raises:
        DataError: there are fewer than two questions, or a file cannot be written.
    """
    groups: dict[Identity, list[int]] = {}
    for index, example in records.usable:
        groups.setdefault(question_of(example), []).append(index)
    if len(groups) < 2:
        name = records.table.path.name
        raise DataError(
            f"{name} asks one question only: there is nothing to split off. Add rows that ask something else.",
            f"{name} 中只有一个提问，无法划分。请添加其他提问。",
        )
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    wanted = max(1, round(len(records.usable) * share))
    held: set[int] = set()
    for group in shuffled[:-1]:  # one question at least is trained on
        if len(held) >= wanted:
            break
        held.update(group)
    trained = [index for index, _ in records.usable if index not in held]
    return _write(records, trained, "train"), _write(records, sorted(held), "dev")


def _write(records: Records, indices: Collection[int], ending: str) -> Path:
    source = records.table.path
    file = source.with_name(f"{source.stem}-{ending}{SUFFIX}")
    if not indices:
        raise DataError(
            f"{source.name}: no row would be left. Add rows that have a prompt and an answer.",
            f"{source.name}：处理后没有剩余的行。请添加提示和回答都不为空的行。",
        )
    lines = (json.dumps(_plainly(records.table.rows[index]), ensure_ascii=False) for index in indices)
    try:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"{file} cannot be written ({error.strerror}). Copy the data to a folder that you may write.",
            f"无法写入 {file}（{error.strerror}）。请把数据复制到有写权限的目录。",
        ) from error
    return file


def _plainly(row: dict[str, object]) -> dict[str, object]:
    """A row without the conversation that it was taken from, which every row of it would repeat."""
    if not {"prompt", "response", "history"} <= row.keys():
        return row
    return {name: value for name, value in row.items() if name not in CONVERSATION_COLUMNS}
