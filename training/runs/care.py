"""What a person does with a run besides training it: give it another name, write a note beside it, delete it.

A run keeps its directory's name in nothing but that name, so that another one is all that renaming takes. Refuses what
would pull a directory away from a trainer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from chatglm2.errors import RunError
from chatglm2.files import read_regular
from training.runs.layout import NOTE_FILE
from training.runs.naming import checked_name
from training.runs.process import starting
from training.runs.storage import explaining_storage_errors, remove_directory, write_atomically
from training.runs.store import Run, RunStore

LONGEST_NOTE = 4000  # characters


def rename(store: RunStore, name: str, new_name: str) -> Run:
    """Give a run another name; its checkpoints go with it.

    Raises:
        RunError: it is being trained, or the new name is taken or cannot be a directory's.
    """
    run = store.get(name)
    renamed = Run(store.root / checked_name(new_name))
    if renamed.path == run.path:
        return run
    with _alone_with(store, run):
        if renamed.path.exists():
            raise RunError(
                f"{renamed.path} exists already. Choose another name.", f"{renamed.path} 已存在，请换一个名字。"
            )
        run.path.rename(renamed.path)
    return renamed


def delete(store: RunStore, name: str) -> None:
    """Delete a run with all that is in its directory.

    Raises:
        RunError: it is being trained, or cannot be deleted.
    """
    run = store.get(name)
    with _alone_with(store, run):
        remove_directory(run.path)


def read_note(run: Run) -> str:
    """What somebody wrote beside a run; nothing where nobody did."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return read_regular(run.path / NOTE_FILE, 4 * LONGEST_NOTE).decode("utf-8")
    return ""


def write_note(run: Run, text: str) -> None:
    """Write beside a run, also while it trains.

    Raises:
        RunError: the text is too long, or cannot be written.
    """
    if len(text) > LONGEST_NOTE:
        raise RunError(
            f"A note has at most {LONGEST_NOTE} characters; this one has {len(text)}. Shorten it.",
            f"备注最多 {LONGEST_NOTE} 个字符，当前为 {len(text)} 个，请缩短。",
        )
    with explaining_storage_errors(run.path / NOTE_FILE):
        write_atomically(run.path / NOTE_FILE, text)


@contextlib.contextmanager
def _alone_with(store: RunStore, run: Run) -> Iterator[None]:
    """Nobody trains the run, and nobody starts to meanwhile."""
    with starting(store), explaining_storage_errors(run.path):
        if run.lease.is_held() or run.state().status.is_active:
            raise RunError(
                f"{run.name} is being trained: stop it first, or wait until it is done.",
                f"{run.name} 正在训练：请先停止，或等它完成。",
            )
        yield
