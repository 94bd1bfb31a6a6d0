"""Processes that change files, and die in between as one does that is killed with -9."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forked import FORKS

from training.runs.store import Run

# What a program does to a directory, as Python's audit hooks name it; files that are only read are not counted.
STEPS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "shutil.copyfile"})
KILLED = -signal.SIGKILL


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
        is_written = event == "open" and isinstance(told[2], int) and bool(told[2] & (os.O_WRONLY | os.O_RDWR))
        if (is_written or event in STEPS) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work(*arguments)
