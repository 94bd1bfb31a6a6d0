"""What the Train tab asks for: look at data, start, stop and resume runs, and see how one is doing.

Knows ``training`` and the disk. Knows no Gradio; a run is its own process and outlives this one.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.chat.model_host import ModelHost
from app.views.charts import Point
from training.data.files import read_table
from training.data.summary import DatasetReport, describe_file, require_readable
from training.runs import process
from training.runs.checkpoints import CheckpointInfo
from training.runs.events import (
    EndedEvent,
    EvaluationEvent,
    Event,
    MessageEvent,
    RetentionEvent,
    StartedEvent,
    StepEvent,
    is_collapsed,
    last_event,
    point_history,
    step_history,
)
from training.runs.store import Run, RunStore, Status
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

LOG_LINES = 200
KEPT_DATA = ".data"
SIDE_FILES = ("mix_file", "validation_file", "retention_file")


@dataclass(frozen=True)
class DataChoice:
    """A data file and which of its columns to use; None: found by their names."""

    path: str
    prompt_column: str | None = None
    response_column: str | None = None
    history_column: str | None = None

    def as_settings(self) -> dict[str, str | None]:
        return {
            "train_file": self.path,
            "prompt_column": self.prompt_column,
            "response_column": self.response_column,
            "history_column": self.history_column,
        }


@dataclass(frozen=True)
class RunView:
    """A run at one moment, as the page shows it."""

    name: str
    status: Status
    step: int = 0
    total_steps: int = 0
    seconds_left: float | None = None
    latest: StepEvent | None = None
    losses: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()  # losses
    scores: Mapping[str, float] = field(default_factory=dict)  # of the last validation, by name
    kept: tuple[Point, ...] = ()  # of the base model's general answers, from 0 to 100
    retention: RetentionEvent | None = None
    keeps_best: bool = False
    message: tuple[str, str] | None = None  # English, Chinese
    checkpoints: tuple[CheckpointInfo, ...] = ()
    log: str = ""

    @property
    def can_resume(self) -> bool:
        return self.status in (Status.STOPPED, Status.FAILED, Status.INTERRUPTED)

    @property
    def collapsed(self) -> bool:
        return self.latest is not None and is_collapsed(self.latest.loss)

    @property
    def offered_checkpoint(self) -> CheckpointInfo | None:
        """The one to try: the newest, or when all is done the best, if that was to be kept; no complete model is."""
        prefixes = [info for info in self.checkpoints if info.is_prefix]
        best = next((info for info in prefixes if info.is_best), None)
        if best is not None and self.keeps_best and not self.status.is_active:
            return best
        return max(prefixes, key=lambda info: info.step, default=None)


@dataclass
class _Feed:
    """The events of one run that were read so far; a viewer's tick reads only what is new."""

    offset: int = 0
    events: list[Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, run: Run) -> list[Event]:
        with self.lock:
            new, offset = run.events(self.offset)
            if offset < self.offset:
                self.events = []
            self.offset = offset
            self.events.extend(new)
            return list(self.events)


class TrainingService:
    def __init__(self, runs: RunStore, host: ModelHost, root: Path) -> None:
        self._runs = runs
        self._host = host
        self._root = root
        self._feeds: dict[str, _Feed] = {}

    # Data

    @staticmethod
    def sample_path() -> str:
        return str(SAMPLE_TRAIN_FILE)

    @staticmethod
    def columns(path: str) -> tuple[str, ...]:
        return read_table(path, skip_bad_rows=True).columns

    def describe(self, data: DataChoice, form: Mapping[str, object]) -> DatasetReport:
        """Rows, lengths and what would be shortened.

        Raises:
            ChatGLMError: the model's tokenizer is not there yet, or the data has a mistake in it.
        """
        return describe_file(data.path, self._settings(data, form), self._host.session.tokenizer)

    # Runs

    def start(self, data: DataChoice, form: Mapping[str, object], name: str | None) -> Run:
        """Checks the data, keeps it, and starts a run on the model that this page serves.

        Raises:
            ChatGLMError: for data or settings that cannot be trained on, said before anything starts.
        """
        process.require_idle(self._runs)
        report = self.describe(data, form)
        settings = self._settings(self._keep(data), form)
        if not settings.skip_bad_rows:
            report.bad_rows.require_none()
        require_readable(settings)
        run = self._runs.create(settings, name or None)
        process.start(run)
        return run

    def stop(self, name: str) -> None:
        process.request_stop(self._runs.get(name))

    def resume(self, name: str) -> None:
        process.resume(self._runs.get(name))

    def names(self) -> list[str]:
        """All runs, the newest first."""
        return [run.name for run in self._runs.list()]

    def active(self) -> RunView | None:
        """The run that trains now, if any."""
        run = self._runs.active()
        return None if run is None else self.view(run.name)

    def view(self, name: str) -> RunView:
        run = self._runs.get(name)
        events = self._feeds.setdefault(name, _Feed()).read(run)
        steps, validations = step_history(events), point_history(events, EvaluationEvent)
        kept = point_history(events, RetentionEvent)
        state, latest = run.state(), steps[-1] if steps else None
        started = last_event(events, StartedEvent)
        total = latest.total_steps if latest else started.total_steps if started else 0
        return RunView(
            name=name,
            status=state.status,
            step=latest.step if latest else 0,
            total_steps=total,
            seconds_left=latest.seconds_left if latest else None,
            latest=latest,
            losses=tuple(Point(event.step, event.loss) for event in steps),
            validation=tuple(Point(event.step, event.metrics["loss"]) for event in validations),
            scores=validations[-1].metrics if validations else {},
            kept=tuple(Point(event.step, event.kept) for event in kept),
            retention=kept[-1] if kept and kept[-1].step else None,
            keeps_best=run.keeps_best(),
            message=(state.message_en, state.message_zh) if state.message_en else _message(events),
            checkpoints=tuple(run.checkpoints()),
            log=run.log_tail(LOG_LINES),
        )

    def _settings(self, data: DataChoice, form: Mapping[str, object]) -> TrainingSettings:
        options = self._host.options
        # The trainer's process has another working directory.
        files = {name: _absolute(form[name]) for name in SIDE_FILES if form.get(name)}
        model = {"model_name_or_path": options.path, "hub": options.hub}
        return TrainingSettings.from_dict({**form, **files, **data.as_settings(), **model})

    def _keep(self, data: DataChoice) -> DataChoice:
        """Copies an uploaded file next to the runs: the upload folder is cleaned, and resuming needs the data."""
        source = Path(data.path)
        if source == SAMPLE_TRAIN_FILE:
            return data
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        kept = self._root / KEPT_DATA / digest / source.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            shutil.copyfile(source, kept)
        return DataChoice(str(kept), data.prompt_column, data.response_column, data.history_column)


def _absolute(path: object) -> str:
    return str(Path(str(path).strip()).expanduser().absolute())


def _message(events: list[Event]) -> tuple[str, str] | None:
    """The last thing the run said, unless it has started anew since."""
    for event in reversed(events):
        if isinstance(event, MessageEvent | EndedEvent):
            return event.en, event.zh
        if isinstance(event, StartedEvent):
            return None
    return None
