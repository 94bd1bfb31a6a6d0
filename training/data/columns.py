"""Which column of a user's file means what: by the names that settings give, or that people use.

Knows names; does not know what a cell holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatglm2.errors import DataError
from training.data.files import Table
from training.data.shapes import KNOWN_COLUMNS
from training.settings.train import TrainingSettings

HISTORY_COLUMN = "history"


@dataclass(frozen=True)
class ColumnMapping:
    """Which column holds what."""

    prompt: str
    response: str
    history: str | None = None


def find_columns(table: Table, settings: TrainingSettings) -> ColumnMapping:
    """The columns that ``settings`` name, or those with well-known names.

    Raises:
        DataError: if a column is not there, with the nearest name that is.
    """
    if settings.history_column is not None:
        _require_column(table, settings.history_column, "history_column")
    if settings.prompt_column is None and settings.response_column is None:
        prompt, response = _known_pair(table)
        history = HISTORY_COLUMN if HISTORY_COLUMN in table.columns else None
        return ColumnMapping(prompt, response, settings.history_column or history)
    for flag, name in (("prompt_column", settings.prompt_column), ("response_column", settings.response_column)):
        if name is None:
            listed = ", ".join(table.columns)
            raise DataError(
                f"--{flag} is missing: name both columns, or neither. {table.path.name} has the columns {listed}.",
                f"缺少 --{flag}：提示列与回答列要么都指定，要么都不指定。{table.path.name} 的列有：{listed}。",
            )
        _require_column(table, name, flag)
    columns = ColumnMapping(str(settings.prompt_column), str(settings.response_column), settings.history_column)
    _require_different(table, columns)
    return columns


def find_general_columns(table: Table, settings: TrainingSettings) -> ColumnMapping:
    """The columns of the file that is mixed in: those that ``settings`` name if it has them, or well-known ones."""
    if settings.prompt_column in table.columns and settings.response_column in table.columns:
        history = settings.history_column if settings.history_column in table.columns else None
        return find_columns(table, replace(settings, history_column=history))
    return find_columns(table, replace(settings, prompt_column=None, response_column=None, history_column=None))


def find_prompt_column(table: Table, settings: TrainingSettings) -> str:
    """The column of prompts in a file that needs no answers: the one that ``settings`` name, or a well-known one.

    Raises:
        DataError: if it has none.
    """
    known = [name for name in (settings.prompt_column, *(prompt for prompt, _ in KNOWN_COLUMNS)) if name]
    column = next((name for name in known if name in table.columns), None)
    if column is None:
        listed = ", ".join(table.columns)
        raise DataError(
            f"{table.path.name} has no column of questions: expected one such as 'prompt', found {listed}. Rename it.",
            f"{table.path.name} 没有问题列：应有名为 'prompt' 的列，现有：{listed}。请改名。",
        )
    return column


def _known_pair(table: Table) -> tuple[str, str]:
    for prompt, response in KNOWN_COLUMNS:
        if prompt in table.columns and response in table.columns:
            return prompt, response
    listed = ", ".join(table.columns)
    slip = _likely_slip(table.columns)
    hint_en = f" Is {slip[0]!r} a slip for {slip[1]!r}?" if slip else ""
    hint_zh = f"{slip[0]!r} 是否应为 {slip[1]!r}？" if slip else ""
    raise DataError(
        f"{table.path.name}: cannot tell prompt and answer from its columns ({listed}).{hint_en} Rename them to "
        "content and summary, or name them with --prompt_column and --response_column.",
        f"{table.path.name}：无法从列名（{listed}）判断哪一列是提示、哪一列是回答。{hint_zh}"
        "请改名为 content 和 summary，或用 --prompt_column 和 --response_column 指定。",
    )


def _likely_slip(columns: Sequence[str]) -> tuple[str, str] | None:
    """A column that is nearly a well-known one, where its partner is there."""
    for pair in KNOWN_COLUMNS:
        for present, absent in (pair, pair[::-1]):
            near = difflib.get_close_matches(absent, columns, n=1, cutoff=0.75)
            if present in columns and near:
                return near[0], absent
    return None


def _require_different(table: Table, columns: ColumnMapping) -> None:
    """Who learns to repeat the prompt learns nothing."""
    if columns.prompt == columns.response:
        twice, both_en, both_zh = columns.prompt, "the prompt and the answer", "不能既是提示又是回答"
    elif columns.history in (columns.prompt, columns.response):
        twice, both_en, both_zh = (
            columns.history,
            "the history and the prompt or the answer",
            "不能既是历史又是提示或回答",
        )
    else:
        return
    listed = ", ".join(table.columns)
    raise DataError(
        f"{table.path.name}: the column {twice!r} cannot be both {both_en}. Choose two; it has {listed}.",
        f"{table.path.name}：{twice!r} 列{both_zh}，请选择不同的列。现有的列：{listed}。",
    )


def _require_column(table: Table, name: str, flag: str) -> None:
    if name in table.columns:
        return
    near = difflib.get_close_matches(name, table.columns, n=1)
    listed = ", ".join(table.columns)
    hint_en = f" Did you mean {near[0]!r}?" if near else ""
    hint_zh = f"您是否想写 {near[0]!r}？" if near else ""
    raise DataError(
        f"{table.path.name} has no column {name!r} (--{flag}); it has {listed}.{hint_en}",
        f"{table.path.name} 没有 {name!r} 列（--{flag}），现有的列：{listed}。{hint_zh}",
    )
