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

from app.training.run_view import RunFeed, RunView, read_view
from app.training.served import TunedModel
from training.data.columns import find_columns
from training.data.encoding import Example, ExampleEncoder, read_examples
from training.data.files import read_table
from training.data.instruction import propose_sentence
from training.data.summary import DatasetReport, describe_file, require_readable
from training.runs import process
from training.runs.launch import Standby
from training.runs.storage import explaining_storage_errors, hidden_name
from training.runs.store import Run, RunStore
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

KEPT_DATA = ".data"
SIDE_FILES = ("mix_file", "validation_file", "retention_file", "keep_file")


TRIED_ROWS, TRIED_TOKENS = 3, 96


@dataclass(frozen=True)
class Trial:
    """A row's prompt, what a model answered, and the row's own answer."""

    prompt: str
    answer: str
    wanted: str


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

    @staticmethod
    def propose_sentence(data: DataChoice) -> str:
        """What the rows ask for, in a sentence that a prefix may start from.

        Raises:
            ChatGLMError: for a file in which nothing can be used.
        """
        return propose_sentence(_examples(data))

    def try_sentence(self, data: DataChoice, form: Mapping[str, object]) -> list[Trial]:
        """What the model answers to the first rows when a prefix says the form's sentence, and nothing is trained.

        Raises:
            ChatGLMError: the model is not there yet, or data or settings have a mistake in them.
        """
        from chatglm2 import Request, SamplingParams
        from chatglm2.model.text_prefix import prefix_from_ids
        from chatglm2.text.instruction import frame_instruction

        settings, examples = self._settings(data, form), _examples(data)
        text = settings.prefix_text.strip() or propose_sentence(examples)
        engine, tokenizer = self._model.engine(), self._model.tokenizer()
        prefix = prefix_from_ids(engine.model, frame_instruction(tokenizer, text, settings.pre_seq_len or 0))
        encoder = ExampleEncoder(tokenizer, settings)
        sampling = SamplingParams(temperature=0, max_new_tokens=TRIED_TOKENS)
        tried = examples[:TRIED_ROWS]
        streams = engine.submit_all([Request(encoder.encode_prompt(row), prefix, sampling) for row in tried])
        return [
            Trial(row.prompt, tokenizer.decode_ids(stream), row.response)
            for row, stream in zip(tried, streams, strict=True)
        ]

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
        with explaining_storage_errors(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not kept.exists():
                self._copy(source, kept)
        return replace(data, path=str(kept))

    @staticmethod
    def _copy(source: Path, kept: Path) -> None:
        """Whole or not at all: half a file would be trained on the next time."""
        half = hidden_name(kept, "partial")
        try:
            shutil.copyfile(source, half)
            half.replace(kept)
        finally:
            half.unlink(missing_ok=True)


def _examples(data: DataChoice) -> list[Example]:
    """The rows of a data file that can be used; no model is needed to read them."""
    table = read_table(data.path, skip_bad_rows=True)
    return read_examples(table, find_columns(table, TrainingSettings.from_dict(data.as_settings())))[0]


def _absolute(path: object) -> str:
    return str(Path(str(path).strip()).expanduser().absolute())
