"""What the Train tab asks for: look at data, start, stop and resume runs, and see how one is doing.

Knows ``training`` and the disk. Knows neither Gradio nor how the page got its model; a run is its own process and
outlives this one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.training.cost import CostEstimator, RunCost
from app.training.run_view import RunFeed, RunView, read_view
from app.training.served import TunedModel
from training.data.files import read_table
from training.data.summary import DatasetReport, describe_file, require_readable
from training.runs import process
from training.runs.launch import Standby
from training.runs.store import Run, RunStore
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

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


class TrainingService:
    def __init__(self, runs: RunStore, model: TunedModel, root: Path, standby: Standby) -> None:
        self._runs = runs
        self._model = model
        self._root = root
        self._standby = standby
        self._feeds: dict[str, RunFeed] = {}
        self._costs = CostEstimator(model, runs)

    @property
    def defaults(self) -> dict[str, Any]:
        """What a form shows first, where it is not what the settings declare."""
        return self._model.defaults

    def close(self) -> None:
        """Lets go of what is kept in reserve; runs go on."""
        self._standby.close()

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
        return describe_file(data.path, self._settings(data, form), self._model.tokenizer())

    # Runs

    def cost(self, data: DataChoice, form: Mapping[str, object]) -> RunCost:
        """What a run would cost, and whether it would start.

        Raises:
            ChatGLMError: the model is not there yet, or data or settings have a mistake in them.
        """
        return self._costs.estimate(self._settings(data, form))

    def cost_key(self) -> str:
        """Another one as soon as a cost may be another, though settings and data are the same."""
        active = self.active()
        return "idle" if active is None else f"{active.name} {len(active.losses) > 1}"

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
        self._model.require_memory(settings)
        run = self._runs.create(settings, name or None)
        process.start(run, self._standby.begin)
        return run

    def stop(self, name: str) -> None:
        process.request_stop(self._runs.get(name))

    def set_share(self, name: str, share: str) -> None:
        """Changes who goes first on the device while a run trains.

        Raises:
            ChatGLMError: it does not train any more.
        """
        process.set_share(self._runs.get(name), share)

    def resume(self, name: str) -> None:
        process.resume(self._runs.get(name), begin=self._standby.begin)

    def names(self) -> list[str]:
        """All runs, the newest first."""
        return [run.name for run in self._runs.list()]

    def active(self) -> RunView | None:
        """The run that trains now, if any."""
        run = self._runs.active()
        return None if run is None else self.view(run.name)

    def view(self, name: str) -> RunView:
        run = self._runs.get(name)
        events = self._feeds.setdefault(name, RunFeed()).read(run)
        return read_view(run, events)

    def _settings(self, data: DataChoice, form: Mapping[str, object]) -> TrainingSettings:
        # The trainer's process has another working directory.
        files = {name: _absolute(form[name]) for name in SIDE_FILES if form.get(name)}
        return TrainingSettings.from_dict({**self._model.settings(form), **files, **data.as_settings()})

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
        return replace(data, path=str(kept))


def _absolute(path: object) -> str:
    return str(Path(str(path).strip()).expanduser().absolute())
