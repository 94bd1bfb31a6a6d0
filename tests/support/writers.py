"""Processes that change files, and die in between as one does that is killed with -9, or find the disk full."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import FORKS

from chatglm2.errors import ChatGLMError
from training.runs.store import Run

# What a program does to a directory, as Python's audit hooks name it; files that are only read are not counted.
STEPS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "shutil.copyfile"})
KILLED = -signal.SIGKILL
WRITING = os.O_WRONLY | os.O_RDWR
# What takes space on a disk, by module: a second name of a function counts apart.
TAKING_SPACE = (
    *((os, name) for name in ("open", "mkdir", "rename", "replace", "fsync", "link")),
    *((io, "open"), (builtins, "open"), (shutil, "copyfile")),
)


def in_another_process(work: Callable[..., Any], *arguments: Any) -> int | None:
    """What a process ends with that does this and nothing else: 0 where it came to its end."""
    process = FORKS.Process(target=work, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def killed_at_each_step(work: Callable[..., Any], *arguments: Any) -> Iterator[int]:
    """Have ``work`` done, and killed before its first step on files, its second, and so on until it gets through.

    Gives the number of each step after its kill, for the caller to look at what is left and to put it right again.
    """
    step = 0
    while (code := in_another_process(_killed_at, step, work, *arguments)) == KILLED:
        yield step
        step += 1
    assert code == 0, code
    assert step > 0, "nothing was written"


def out_of_space_at_each_step(work: Callable[..., Any], *arguments: Any) -> Iterator[ChatGLMError | None]:
    """Have ``work`` done with no space left at its first step that takes some, at its second, and so on.

    Gives after each what was said about it; None where the work could do without. An error of another kind is raised.
    """
    for step in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            met = _no_space_at(step, patch)
            try:
                work(*arguments)
                said = None
            except ChatGLMError as error:
                said = error
        if not met:
            assert said is None, said
            return
        yield said


def _no_space_at(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let the step of that number find no space; the list that comes back names it once it was met."""
    steps, met = itertools.count(), list[str]()

    def refusing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            reads = name == "open" and not _writes(given, options)
            if not reads and next(steps) == step:
                met.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given, **options)

        return call

    for module, name in TAKING_SPACE:
        patch.setattr(module, name, refusing(name, getattr(module, name)))
    return met


def _writes(given: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a call of `open` is for writing; ``os.open`` is told in numbers, the others in letters."""
    mode = given[1] if len(given) > 1 else options.get("mode", "r")
    return bool(mode & WRITING) if isinstance(mode, int) else not set(mode).isdisjoint("wax+")


def change_again_and_again(directory: Path, writer: str, times: int) -> None:
    """Change one value of a run's state, which nobody else changes; what was written before must be there still."""
    run = Run(directory)
    for number in range(times):
        run.update(**{writer: number})
        found = run.state().model_dump()[writer]
        assert found == number, f"{writer} wrote {number} and found {found}"


def _killed_at(step: int, work: Callable[..., Any], *arguments: Any) -> None:
    steps = iter(range(step + 1))

    def watch(event: str, told: tuple[Any, ...]) -> None:
        is_written = event == "open" and isinstance(told[2], int) and bool(told[2] & WRITING)
        if (is_written or event in STEPS) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work(*arguments)
