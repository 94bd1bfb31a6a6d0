"""Evaluations of the page: what may be asked, begun in a process of its own, and read back from the disk.

A page that is closed, refreshed or started again finds them as they are. Answers nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.chat.sources import SourceLibrary
from app.training.served import TunedModel
from app.training.service import TrainingService
from chatglm2.errors import RunError
from training.comparison import process
from training.comparison.place import RESULT_FILE, ComparisonPlace, ComparisonStore, Progress
from training.comparison.request import plan_comparison
from training.comparison.result import Comparison
from training.settings.samples import (
    SAMPLE_BIAS_FILE,
    SAMPLE_CHOICES_FILE,
    SAMPLE_DEV_FILE,
    SAMPLE_GENERAL_FILE,
)


@dataclass(frozen=True)
class Wanted:
    """What a form asks for.

    Attributes:
        checkpoints: keys of sources; the base answers in any case.
        file: an uploaded file of rows; None for the sample.
        general: an uploaded file of general questions; None for the sample's.
        asks_general: whether general questions are asked at all.
        rows: of the file that are answered, at most.
        choices: an uploaded file of multiple-choice questions, or the sample's; None asks none.
        bias: an uploaded file of attributes and templates, or the sample's; None compares none.
    """

    checkpoints: Sequence[str]
    file: str | None = None
    general: str | None = None
    asks_general: bool = True
    rows: int = 100
    choices: str | None = None
    bias: str | None = None


@dataclass(frozen=True)
class EvaluationView:
    """One evaluation as it is shown; ``result`` is there once it is finished."""

    name: str
    title: str
    progress: Progress
    result: Comparison | None


class EvaluationService:
    """One instance serves every visitor."""

    def __init__(
        self,
        store: ComparisonStore,
        model: TunedModel,
        sources: SourceLibrary,
        training: TrainingService,
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store = store
        self._model = model
        self._sources = sources
        self._training = training
        self._environment = environment
        self._read: tuple[Path, int, Comparison] | None = None

    def titles(self) -> dict[str, str]:
        """What people call each evaluation, by its name; the newest first."""
        return {place.name: place.title for place in self._store.list()}

    def is_active(self) -> bool:
        """Whether checkpoints are being evaluated."""
        return self._store.active() is not None

    def view(self, name: str) -> EvaluationView:
        """How one is, and what came out.

        Raises:
            RunError: there is none of that name.
        """
        place = self._store.get(name)
        progress = place.progress()
        return EvaluationView(name, place.title, progress, None if progress.status.is_active else self._result(place))

    def start(self, wanted: Wanted, language: str) -> str:
        """Begins an evaluation; returns its name.

        Raises:
            ChatGLMError: the model is not there yet, a checkpoint or a file cannot be used, or another one runs.
        """
        if self.is_active():
            raise RunError(
                "An evaluation runs already. Stop it first, or wait for it.",
                "已有一个评估正在进行。请先停止它，或等它完成。",
            )
        places = [self._sources.find(key).key for key in wanted.checkpoints]
        file = self._training.keep_file(wanted.file) if wanted.file else str(SAMPLE_DEV_FILE)
        general = None
        if wanted.asks_general:
            general = self._training.keep_file(wanted.general) if wanted.general else str(SAMPLE_GENERAL_FILE)
        values = {
            **self._model.evaluated(),
            **{"test_file": file, "max_predict_samples": wanted.rows, "do_sample": False},
        }
        choices = self._probed(wanted.choices, SAMPLE_CHOICES_FILE)
        bias = self._probed(wanted.bias, SAMPLE_BIAS_FILE)
        request = plan_comparison(values, places, general, choices, bias, may_read=False)
        return process.start(self._store, request, language, self._environment()).name

    def _probed(self, file: str | None, sample: Path) -> str | None:
        return self._training.keep_file(file) if file and file != str(sample) else file

    def rename(self, name: str, title: str) -> None:
        """Calls one by another title; the files stay where they are.

        Raises:
            RunError: there is none of that name, or it cannot be written.
        """
        self._store.get(name).set_title(title)

    def delete(self, name: str) -> None:
        """Removes one with all its files.

        Raises:
            RunError: there is none of that name, or it runs.
        """
        self._store.delete(name)

    def stop(self, name: str) -> None:
        """Asks one to stop after the rows that are being answered."""
        self._store.get(name).ask_to_stop()

    def go_on(self, name: str, language: str) -> None:
        """Continues one that ended early; answers that are there are kept.

        Raises:
            RunError: another one runs, or it is done.
        """
        process.go_on(self._store, name, language, self._environment())

    def result_file(self, name: str, file: str) -> Path:
        """A file to take away.

        Raises:
            RunError: there is none of that name.
        """
        found = next((path for path in self._store.get(name).result_files() if path.name == file), None)
        if found is None:
            raise RunError(f"The evaluation {name} has no file {file}.", f"评估 {name} 中没有文件 {file}。")
        return found

    def result_files(self, name: str) -> list[str]:
        """The names of files to take away."""
        return [path.name for path in self._store.get(name).result_files()]

    def _result(self, place: ComparisonPlace) -> Comparison | None:
        """Every open page asks once a second; the file is read when it is another one."""
        file = place.path / RESULT_FILE
        try:
            stamp = file.stat().st_mtime_ns
        except OSError:
            return None
        if self._read is None or self._read[:2] != (file, stamp):
            found = place.result()
            if found is None:
                return None
            self._read = (file, stamp, found)
        return self._read[2]
