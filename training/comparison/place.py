"""A comparison's directory: what was asked, how far it is, whether it shall stop, and what came out.

Page, command line and a restarted server read the same files. Knows neither model nor rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, Field

from chatglm2.errors import RunError
from chatglm2.files import read_regular
from training.comparison.request import ComparisonRequest
from training.comparison.result import Comparison
from training.evaluation.plan import EVALUATIONS
from training.runs.checkpoints import LATEST_TIME
from training.runs.liveness import Lease
from training.runs.storage import SMALL_FILE_BYTES, explaining_storage_errors, remove_directory, write_atomically

REQUEST_FILE, PROGRESS_FILE, RESULT_FILE = "request.json", "progress.json", "comparison.json"
STOP_FILE, LOG_FILE = "stop", "evaluation.log"
LOCK_FILE, LOCK_SECONDS = ".lock", 10.0
TITLE_FILE, LONGEST_TITLE, TITLE_BYTES = "title.txt", 60, 4096
REPORT_FILE, CSV_FILE = "report.html", "rows.csv"
# As long as importing may take on a busy machine.
STARTING_SECONDS = 90.0
# Beyond these a number in a file is a mistake; a row takes no year.
MOST_ROWS, SLOWEST_RATE = 10**9, 1e-7
# Every answer of every contender; a larger file is a mistake.
RESULT_BYTES = 256 * 2**20


class Status(StrEnum):
    """How a comparison is. Interrupted: its process is gone without having said why."""

    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_active(self) -> bool:
        return self in (Status.STARTING, Status.RUNNING)


class Progress(BaseModel):
    """How far it is.

    Attributes:
        status: as its process last said.
        changed_at: when, in seconds since 1970.
        done: rows and questions that everybody has answered, of ``total``.
        rate: of them a second, once that is known.
        message_en: what its process last said.
        message_zh: the same.
    """

    status: Status = Status.STARTING
    changed_at: float = Field(default=0.0, ge=0, le=LATEST_TIME)
    done: int = Field(default=0, ge=0, le=MOST_ROWS)
    total: int = Field(default=0, ge=0, le=MOST_ROWS)
    rate: float = Field(default=0.0, ge=0, le=MOST_ROWS)
    message_en: str = ""
    message_zh: str = ""

    @property
    def seconds_left(self) -> float | None:
        """None while nobody can tell."""
        return max(self.total - self.done, 0) / self.rate if self.rate > SLOWEST_RATE else None


class ComparisonPlace:
    """The directory of one comparison."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lease = Lease(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def title(self) -> str:
        """What people call it: its name, unless they gave it a title."""
        try:
            text = read_regular(self.path / TITLE_FILE, TITLE_BYTES).decode("utf-8", errors="replace")
        except (OSError, ValueError):
            return self.name
        return " ".join(text.split())[:LONGEST_TITLE] or self.name

    def set_title(self, title: str) -> None:
        """Call it by another title, one line of at most `LONGEST_TITLE` characters; an empty one takes it away."""
        with explaining_storage_errors(self.path):
            write_atomically(self.path / TITLE_FILE, " ".join(title.split())[:LONGEST_TITLE])

    def request(self) -> ComparisonRequest:
        """What was asked.

        Raises:
            RunError: the file is damaged.
        """
        try:
            return ComparisonRequest.model_validate_json(read_regular(self.path / REQUEST_FILE, SMALL_FILE_BYTES))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path} holds no evaluation that can be read: expected {REQUEST_FILE}. Start it again.",
                f"{self.path} 中没有可读取的评估：应有 {REQUEST_FILE}。请重新开始。",
            ) from error

    def progress(self) -> Progress:
        """How far it is; who says that it runs, and has no process, is interrupted."""
        try:
            found = Progress.model_validate_json(read_regular(self.path / PROGRESS_FILE, SMALL_FILE_BYTES))
        except (OSError, ValueError):
            return Progress(status=Status.INTERRUPTED)
        starts = found.status is Status.STARTING and abs(time.time() - found.changed_at) < STARTING_SECONDS
        if found.status.is_active and not starts and not self.lease.is_held():
            return found.model_copy(update={"status": Status.INTERRUPTED, "rate": 0.0})
        return found

    def set_progress(self, progress: Progress) -> None:
        with explaining_storage_errors(self.path):
            text = progress.model_copy(update={"changed_at": time.time()}).model_dump_json()
            write_atomically(self.path / PROGRESS_FILE, text)

    @property
    def shall_stop(self) -> bool:
        return (self.path / STOP_FILE).exists()

    def ask_to_stop(self, stop: bool = True) -> None:
        with explaining_storage_errors(self.path):
            if stop:
                (self.path / STOP_FILE).touch()
            else:
                (self.path / STOP_FILE).unlink(missing_ok=True)

    def result(self) -> Comparison | None:
        """What came out; None while there is nothing that can be read."""
        try:
            return Comparison.model_validate_json(read_regular(self.path / RESULT_FILE, RESULT_BYTES))
        except (OSError, ValueError):
            return None

    def result_files(self) -> list[Path]:
        """What people take away."""
        names = (REPORT_FILE, CSV_FILE, RESULT_FILE)
        predictions = sorted(self.path.glob("generated_predictions*.txt"), key=lambda file: (len(file.name), file.name))
        return [file for file in (*(self.path / name for name in names), *predictions) if file.is_file()]


class ComparisonStore:
    """The comparisons beside the runs of a directory."""

    def __init__(self, output: Path) -> None:
        self._root = output / EVALUATIONS

    def create(self, request: ComparisonRequest) -> ComparisonPlace:
        """A new directory that asks for ``request``; nothing runs yet."""
        begun = f"{datetime.now():%Y%m%d-%H%M%S}"
        with explaining_storage_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            number = 1
            while (path := self._root / (begun if number == 1 else f"{begun}-{number}")).exists():
                number += 1
            path.mkdir()
            write_atomically(path / REQUEST_FILE, request.model_dump_json(indent=1))
        return ComparisonPlace(path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else begins one meanwhile.

        Raises:
            Timeout: of filelock, where somebody does for long.
        """
        with explaining_storage_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / LOCK_FILE, timeout=LOCK_SECONDS):
            yield

    def list(self) -> list[ComparisonPlace]:
        """The newest first."""
        found = (file for file in self._root.glob(f"*/{REQUEST_FILE}") if not file.parent.name.startswith("."))
        return [ComparisonPlace(file.parent) for file in sorted(found, key=lambda file: file.parent.name, reverse=True)]

    def get(self, name: str) -> ComparisonPlace:
        """The one called ``name``.

        Raises:
            RunError: there is none.
        """
        place = next((place for place in self.list() if place.name == name), None)
        if place is None:
            raise RunError(f"There is no evaluation {name} any more.", f"评估 {name} 已不存在。")
        return place

    def delete(self, name: str) -> None:
        """Remove one with all its files.

        Raises:
            RunError: there is none, it runs, or it cannot be removed.
        """
        place = self.get(name)
        if place.progress().status.is_active:
            raise RunError(
                f"{place.title} is being evaluated. Stop it first, then delete it.",
                f"{place.title} 正在评估，请先停止再删除。",
            )
        with explaining_storage_errors(place.path):
            remove_directory(place.path)

    def active(self) -> ComparisonPlace | None:
        """The one that runs, if any."""
        return next((place for place in self.list() if place.progress().status.is_active), None)
