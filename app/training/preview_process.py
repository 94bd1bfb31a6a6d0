"""``python -m app.training.preview_process``: looks at data files for a page, one after another, until that is gone.

Knows how a file is looked at; imports no torch, so that it is there at once. Its other end is `previews`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatglm2.errors import ChatGLMError, DataError
from training.data.columns import find_columns
from training.data.doctor import browsing, examination
from training.data.doctor.browsing import RenderedRow, RowPage
from training.data.doctor.findings import Diagnosis
from training.data.doctor.mending import Fix, split_off, write_mended
from training.data.doctor.records import Records
from training.data.encoding import Example, ExampleEncoder, read_examples
from training.data.files import read_table
from training.data.instruction import propose_sentence
from training.data.summary import DatasetReport, describe_file, require_readable
from training.settings.train import TrainingSettings

if TYPE_CHECKING:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

Job = Literal[
    "columns", "describe", "require_readable", "first_examples", "examine", "find_rows", "render_row", "mend", "split"
]
NICENESS = 10


def columns(file: str) -> tuple[str, ...]:
    return read_table(file, skip_bad_rows=True).columns


def describe(settings: TrainingSettings, vocabulary: str) -> DatasetReport:
    return describe_file(settings.train_file, settings, _tokenizer(vocabulary))


def first_examples(settings: TrainingSettings, count: int) -> tuple[str, list[Example]]:
    """What the rows ask for, in a sentence, and the first of them that can be used; no model is needed to read them."""
    table = read_table(settings.train_file, skip_bad_rows=True)
    examples, _ = read_examples(table, find_columns(table, settings))
    return propose_sentence(examples), examples[:count]


def examine(settings: TrainingSettings, vocabulary: str) -> list[Diagnosis]:
    return examination.examine(settings, _tokenizer(vocabulary))


def find_rows(settings: TrainingSettings, query: str, number: int) -> RowPage:
    return browsing.find_rows(_records(settings), query, number)


def render_row(settings: TrainingSettings, vocabulary: str, index: int) -> RenderedRow | None:
    return browsing.render_row(_records(settings), ExampleEncoder(_tokenizer(vocabulary), settings), index)


def mend(settings: TrainingSettings, fix: Fix) -> Path:
    return write_mended(_records(settings), fix)


def split(settings: TrainingSettings, share: float) -> tuple[Path, Path]:
    return split_off(_records(settings), settings.validation_split or share, settings.seed)


def _records(settings: TrainingSettings) -> Records:
    return examination.records_of(settings.train_file, settings)


@cache
def _tokenizer(vocabulary: str) -> ChatGLMTokenizer:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

    return ChatGLMTokenizer(vocabulary)


JOBS: dict[Job, Any] = {
    "columns": columns,
    "describe": describe,
    "require_readable": require_readable,
    "first_examples": first_examples,
    "examine": examine,
    "find_rows": find_rows,
    "render_row": render_row,
    "mend": mend,
    "split": split,
}


def answer(job: Job, arguments: tuple[object, ...]) -> object:
    """What a job gives, or the error that it ends with, to be raised at the other end."""
    try:
        return JOBS[job](*arguments)
    except ChatGLMError as error:
        return error
    except MemoryError:
        return DataError(
            "This file needs more memory than a page gives to looking at one. Use a smaller file, or train on it from "
            "the command line (./launch.sh train --train_file FILE).",
            "读取这个文件所需的内存超出了页面的限制。"
            "请使用更小的文件，或在命令行中训练（./launch.sh train --train_file 文件）。",
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        return DataError(
            f"This file cannot be looked at ({reason}). Save it again as UTF-8 JSON lines.",
            f"无法读取这个文件（{reason}）。请另存为 UTF-8 的 JSON Lines 文件。",
        )


def limit_memory(count: int) -> None:
    """Let allocations beyond ``count`` bytes fail, where the system can do that."""
    if sys.platform != "win32":
        import resource

        with contextlib.suppress(ValueError, OSError):  # a Mac has the call, and may refuse every limit
            resource.setrlimit(resource.RLIMIT_AS, (count, count))
        os.nice(NICENESS)  # conversations come first


def main(seconds: float, memory_bytes: int) -> None:
    limit_memory(memory_bytes)
    has_alarm = hasattr(signal, "setitimer")
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what a library prints is no answer
    while True:
        try:
            job, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, seconds)  # which ends the process
        found = answer(job, arguments)
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(found, answers)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a page that is interrupted lets it go
    main(float(sys.argv[1]), int(sys.argv[2]))
