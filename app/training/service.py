"""What the Train tab asks for: look at data, start, stop and resume runs, and see how one is doing.

Knows ``training`` and the disk. Knows neither Gradio nor how the page got its model; a run is its own process and
outlives this one.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.places import KEPT_DATA, Places
from app.training.cost import CostEstimator, RunCost
from app.training.doctor import DataDoctor
from app.training.form import with_validation
from app.training.preview_process import first_examples
from app.training.previews import Previews, is_ours
from app.training.run_view import RunFeed, RunView, read_view
from app.training.served import TunedModel
from chatglm2.errors import ChatGLMError
from chatglm2.files import open_regular
from training.data.encoding import Example, ExampleEncoder
from training.data.files import read_table
from training.data.summary import DatasetReport, describe_file, require_readable
from training.queue import line
from training.queue.sweep import brief, combinations, distinct
from training.runs import process
from training.runs.launch import Standby
from training.runs.layout import discard_run
from training.runs.pins import LONGEST_PIN, checked_pins, write_pins
from training.runs.storage import explaining_storage_errors, publish_file, workspace_for
from training.runs.store import Run, RunStore
from training.settings.field import SettingField
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings, setting_fields

TRIED_ROWS, TRIED_TOKENS = 3, 96


@dataclass(frozen=True)
class Trial:
    """A row's prompt, what a model answered, and the row's own answer."""

    prompt: str
    answer: str
    wanted: str


@dataclass(frozen=True)
class Proposal:
    """What a data file suggests: a sentence to start from, and prompts to watch."""

    sentence: str
    prompts: tuple[str, ...]


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
    def __init__(self, runs: RunStore, model: TunedModel, root: Path, standby: Standby, places: Places) -> None:
        self._runs = runs
        self._model = model
        self._root = root
        self._standby = standby
        self._places = places
        self._previews = Previews()
        self._feeds: dict[str, RunFeed] = {}
        self._costs = CostEstimator(model, runs)
        self.doctor = DataDoctor(self._previews, model, self._settings)

    @property
    def defaults(self) -> dict[str, Any]:
        """What a form shows first, where it is not what the settings declare."""
        return self._model.defaults

    def close(self) -> None:
        """Lets go of what is kept in reserve; runs go on."""
        self._standby.close()
        self._previews.close()

    # Data

    @staticmethod
    def sample_path() -> str:
        return str(SAMPLE_TRAIN_FILE)

    def expect_file(self) -> None:
        """Prepares to look at a file that somebody is about to choose."""
        self._previews.prepare()

    def columns(self, path: str) -> tuple[str, ...]:
        file = self._places.data_file(path)
        return read_table(file).columns if is_ours(file) else self._previews.columns(str(file))

    def describe(self, data: DataChoice, form: Mapping[str, object]) -> DatasetReport:
        """Rows, lengths and what would be shortened.

        Raises:
            ChatGLMError: the model's tokenizer is not there yet, or the data has a mistake in it.
        """
        settings = self._settings(data, form)
        tokenizer = self._model.tokenizer()
        if is_ours(Path(settings.train_file)):
            return describe_file(settings.train_file, settings, tokenizer)
        return self._previews.describe(settings, tokenizer.vocab_file)

    def propose(self, data: DataChoice) -> Proposal:
        """What the rows ask for, in a sentence that a prefix may start from, and the first of them to watch.

        Raises:
            ChatGLMError: for a file in which nothing can be used.
        """
        file = str(self._places.data_file(data.path))
        settings = TrainingSettings.from_dict({**data.as_settings(), "train_file": file})
        sentence, rows = self._first_examples(settings)
        return Proposal(sentence, tuple(row.prompt for row in rows if len(row.prompt) <= LONGEST_PIN))

    def try_sentence(self, data: DataChoice, form: Mapping[str, object]) -> list[Trial]:
        """What the model answers to the first rows when a prefix says the form's sentence, and nothing is trained.

        Raises:
            ChatGLMError: the model is not there yet, or data or settings have a mistake in them.
        """
        from chatglm2 import Request, SamplingParams
        from chatglm2.model.text_prefix import prefix_from_ids
        from chatglm2.text.instruction import frame_instruction

        settings = self._settings(data, form)
        proposed, tried = self._first_examples(settings)
        text = settings.prefix_text.strip() or proposed
        engine, tokenizer = self._model.engine(), self._model.tokenizer()
        prefix = prefix_from_ids(engine.model, frame_instruction(tokenizer, text, settings.pre_seq_len or 0))
        encoder = ExampleEncoder(tokenizer, settings)
        sampling = SamplingParams(temperature=0, max_new_tokens=TRIED_TOKENS)
        streams = engine.submit_all([Request(encoder.encode_prompt(row), prefix, sampling) for row in tried])
        return [
            Trial(row.prompt, tokenizer.decode_ids(stream), row.response)
            for row, stream in zip(tried, streams, strict=True)
        ]

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

    def start(
        self, data: DataChoice, form: Mapping[str, object], name: str | None, pins: Sequence[str] | None = None
    ) -> Run:
        """Checks the data, keeps it, and starts a run on the model that this page serves, or puts it in line.

        ``pins`` are answered at every checkpoint; the first rows where none are given.

        Raises:
            ChatGLMError: for data or settings that cannot be trained on, said before anything starts.
        """
        settings = self._checked(data, form)
        return self._begin(settings, name, checked_pins(self._pins(settings) if pins is None else pins))

    def start_several(
        self, data: DataChoice, form: Mapping[str, object], lists: Mapping[str, str], name: str | None
    ) -> list[Run]:
        """Puts a run in line for every combination of the values in ``lists``, by setting; none where one is wrong.

        Raises:
            ChatGLMError: as for `start`; or the combinations are too few or too many, or a name is taken.
        """
        first, *others = combinations(lists)
        checked, kept = self._checked(data, {**form, **first}), self._keep(data)
        settings = [checked, *(self._settings(kept, {**form, **values}) for values in others)]
        pinned = self._pins(checked)
        runs: list[Run] = []
        group = as_name(name) or f"{Path(checked.train_file).stem[:40]}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            for item in distinct(settings):
                run = self._runs.create(item, f"{group}-{brief(item)}")
                runs.append(run)
                write_pins(run, pinned)
                run.update(sweep=group)
        except ChatGLMError:
            for run in runs:
                discard_run(run.path)
            raise
        for run in runs:
            line.join(run)
        return runs

    def _checked(self, data: DataChoice, form: Mapping[str, object]) -> TrainingSettings:
        report = self.describe(data, form)
        settings = self._settings(self._keep(data), form)
        if settings.validation_file and not is_ours(Path(settings.validation_file)):
            settings = replace(settings, validation_file=self.keep_file(settings.validation_file))
        if not settings.skip_bad_rows:
            report.bad_rows.require_none()
        self._require_readable(settings)
        if self._runs.active() is None:  # what is trained now has memory that will be free by then
            self._model.require_memory(settings)
        return settings

    def _begin(self, settings: TrainingSettings, name: str | None, pins: Sequence[str]) -> Run:
        run = self._runs.create(settings, as_name(name))
        try:
            write_pins(run, pins)
            if line.must_wait(self._runs):
                line.join(run)
                return run
        except ChatGLMError:  # one that cannot begin is not left behind
            discard_run(run.path)
            raise
        process.start(run, self._standby.begin)
        return run

    def _pins(self, settings: TrainingSettings) -> list[str]:
        return [row.prompt for row in self._first_examples(settings)[1] if len(row.prompt) <= LONGEST_PIN]

    def stop(self, name: str) -> None:
        process.request_stop(self._runs.get(name))

    def set_share(self, name: str, share: str) -> None:
        """Changes who goes first on the device while a run trains.

        Raises:
            ChatGLMError: it does not train any more.
        """
        process.set_share(self._runs.get(name), share)

    def resume(self, name: str) -> None:
        """Lets a run go on that has ended, at once or when those before it have ended, too."""
        run = self._runs.get(name)
        if line.must_wait(self._runs):
            line.join(run)
        else:
            process.resume(run, begin=self._standby.begin)

    def names(self) -> list[str]:
        """All runs, the newest first."""
        return [run.name for run in self._runs.list()]

    def followed(self, names: Sequence[str]) -> str:
        """The run that is trained; while none is, the newest of some that was trained at all."""
        active = self._runs.active()
        if active is not None and active.name in names:
            return active.name
        untrained = line.untrained(self._runs)
        return next((name for name in names if name not in untrained), names[0])

    def active(self) -> RunView | None:
        """The run that trains now, if any."""
        run = self._runs.active()
        return None if run is None else self.view(run.name)

    def view(self, name: str) -> RunView:
        run = self._runs.get(name)
        events = self._feeds.setdefault(name, RunFeed()).read(run)
        return read_view(run, events)

    def _settings(self, data: DataChoice, form: Mapping[str, object]) -> TrainingSettings:
        asked = with_validation({**self._model.settings(form), **data.as_settings()})
        # Every file that the form names is looked at here, wherever it is used later.
        files = {item.name: self._places.setting(item, str(asked[item.name])) for item in _naming_files(asked)}
        return TrainingSettings.from_dict({**asked, **files})

    def _first_examples(self, settings: TrainingSettings) -> tuple[str, list[Example]]:
        """A sentence that the rows ask for, and those to try it on."""
        look = first_examples if is_ours(Path(settings.train_file)) else self._previews.first_examples
        return look(settings, TRIED_ROWS)

    def _require_readable(self, settings: TrainingSettings) -> None:
        beside = [Path(file) for file in (settings.mix_file, settings.validation_file) if file]
        if all(map(is_ours, beside)):
            require_readable(settings)
        else:
            self._previews.require_readable(settings)

    def keep_file(self, path: str) -> str:
        """The path of a copy of an uploaded file that stays when uploads are cleaned.

        Raises:
            ChatGLMError: it is no file that this page reads, or cannot be copied.
        """
        return self._keep(DataChoice(path)).path

    def _keep(self, data: DataChoice) -> DataChoice:
        """Copies an uploaded file next to the runs: the upload folder is cleaned, and resuming needs the data."""
        source = self._places.data_file(data.path)
        if source == SAMPLE_TRAIN_FILE.resolve():
            return data
        with explaining_storage_errors(self._root / KEPT_DATA):
            (self._root / KEPT_DATA).mkdir(parents=True, exist_ok=True)
            (self._root / KEPT_DATA).chmod(0o700)  # the folder is its user's, as what was uploaded was
            with open_regular(source) as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()[:12]
            kept = self._root / KEPT_DATA / digest / source.name
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                self._copy(source, kept)
        return replace(data, path=str(kept))

    @staticmethod
    def _copy(source: Path, kept: Path) -> None:
        """Whole or not at all: half a file would be trained on the next time."""
        with workspace_for(kept) as workspace:
            half = workspace / kept.name
            shutil.copyfile(source, half)
            publish_file(half, kept)


def as_name(text: str | None) -> str | None:
    """What a person typed as a run's name: a directory on every system, and a command's argument, has no blanks."""
    return "-".join((text or "").split()) or None


def _naming_files(values: Mapping[str, object]) -> list[SettingField]:
    return [item for item in setting_fields() if item.reads is not None and values.get(item.name)]
