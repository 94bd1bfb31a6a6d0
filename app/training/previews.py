"""Data files looked at in processes of their own, with limits of time and memory: what was uploaded may be anything.

A small pool, started with the first file. Knows processes; what looking at a file means is `preview_process`'s matter.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from app.training.preview_process import JOBS, Job
from chatglm2.errors import ChatGLMError, DataError
from training.data.encoding import Example
from training.data.summary import DatasetReport
from training.settings.samples import PROJECT_ROOT, SAMPLE_DEV_FILE, SAMPLE_GENERAL_FILE, SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

PROCESSES = 2
# How long a caller waits for others' files before being told so.
WAIT_SECONDS = 15.0
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What looking at one file may take."""

    seconds: float = 60.0
    memory_bytes: int = 3 * GIB


class Previews:
    """Looks at data files for all who ask, a few at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits(memory_bytes=max(GIB, min(3 * GIB, psutil.virtual_memory().total // 4)))
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for _ in range(PROCESSES):
            self._idle.put(_Process(self._limits))

    def prepare(self) -> None:
        """Starts a process if none is there: somebody is about to choose a file."""
        with contextlib.suppress(queue.Empty):
            process = self._idle.get_nowait()
            process.start()
            self._idle.put(process)

    def columns(self, file: str) -> tuple[str, ...]:
        """The columns of a file; raises as `read_table` does, and a `DataError` where a limit is reached."""
        return cast("tuple[str, ...]", self._ask("columns", file))

    def describe(self, settings: TrainingSettings, vocabulary: str) -> DatasetReport:
        """What `describe_file` says of the training data; ``vocabulary`` is the tokenizer's file."""
        return cast(DatasetReport, self._ask("describe", settings, vocabulary))

    def require_readable(self, settings: TrainingSettings) -> None:
        """Looks at the files beside the training data, as the function of that name does."""
        self._ask("require_readable", settings)

    def first_examples(self, settings: TrainingSettings, count: int) -> tuple[str, list[Example]]:
        """A sentence that the training data's rows ask for, and the first of them, as the function of that name."""
        return cast("tuple[str, list[Example]]", self._ask("first_examples", settings, count))

    def look(self, job: Job, settings: TrainingSettings, *arguments: object) -> Any:
        """What a job of the data doctor gives; see `preview_process.JOBS`."""
        files = (Path(file) for file in (settings.train_file, settings.validation_file) if file)
        return JOBS[job](settings, *arguments) if all(map(is_ours, files)) else self._ask(job, settings, *arguments)

    def close(self) -> None:
        """Ends the processes that are idle; a busy one ends with its job."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    def _ask(self, job: Job, *arguments: object) -> Any:
        try:
            process = self._idle.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise DataError(
                "Other people's files are being looked at. Try again in a minute.",
                "正在读取其他人的文件，请一分钟后再试。",
            ) from None
        try:
            answer = process.ask(job, arguments)
        finally:
            self._idle.put(process)
        if isinstance(answer, ChatGLMError):
            raise answer
        return answer


class _Process:
    """One process, started when it is needed and again when it has ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, job: Job, arguments: tuple[object, ...]) -> Any:
        """What the job gives, or the error that it ends with."""
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        # It ends itself in time; this is for one that cannot.
        timer = threading.Timer(2 * self._limits.seconds + 30, process.kill)
        timer.start()
        try:
            pickle.dump((job, arguments), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):  # it was ended, by a limit of time or of memory
            self.end()
            return self._too_large()
        finally:
            timer.cancel()

    def end(self) -> None:
        if self._running is not None:
            self._end_running()
            self._running = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, which takes jobs once it has imported what they need."""
        if self._running is not None and self._running.poll() is not None:
            self.end()
        if self._running is None:
            limits = (str(self._limits.seconds), str(self._limits.memory_bytes))
            self._running = subprocess.Popen(
                [sys.executable, "-m", "app.training.preview_process", *limits],
                cwd=PROJECT_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._end_running = weakref.finalize(self, _end, self._running)
        return self._running

    def _too_large(self) -> DataError:
        seconds, gib = f"{self._limits.seconds:g}", f"{self._limits.memory_bytes / GIB:.1f}"
        return DataError(
            f"This file needs more than the {seconds} seconds or the {gib} GiB of memory that a page gives to looking "
            "at one. Use a smaller file, or train on it from the command line (./launch.sh train --train_file FILE).",
            f"读取这个文件超出了页面允许的 {seconds} 秒或 {gib} GiB 内存。"
            "请使用更小的文件，或在命令行中训练（./launch.sh train --train_file 文件）。",
        )


def is_ours(file: Path) -> bool:
    """Whether it came with the program: looking at it takes no process of its own."""
    return file.resolve() in (SAMPLE_TRAIN_FILE, SAMPLE_DEV_FILE, SAMPLE_GENERAL_FILE)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was not sent yet cannot be any more
            pipe.close()
