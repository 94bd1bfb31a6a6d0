"""What the Train tab asks of the data doctor: findings, rows to look through, files without what is wrong.

Knows the preview processes, in which files are read; what is wrong with data is `training.data.doctor`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from app.training.previews import Previews
from app.training.served import TunedModel
from training.data.doctor.browsing import RenderedRow, RowPage
from training.data.doctor.findings import Diagnosis
from training.data.doctor.mending import Fix
from training.settings.train import TrainingSettings

if TYPE_CHECKING:
    from app.training.service import DataChoice

Form = Mapping[str, object]
# Of the rows that are there, where nothing else is said.
USUAL_SHARE = 0.1


class DataDoctor:
    """Looks at the data that a form names; every call raises a `ChatGLMError` for what cannot be read."""

    def __init__(
        self, previews: Previews, model: TunedModel, settings: Callable[[DataChoice, Form], TrainingSettings]
    ) -> None:
        self._previews = previews
        self._model = model
        self._settings = settings

    def examine(self, data: DataChoice, form: Form) -> list[Diagnosis]:
        """What is wrong with the training data and, where the form names some, with the validation data."""
        settings = self._settings(data, form)
        return cast(list[Diagnosis], self._previews.look("examine", settings, self._vocabulary()))

    def rows(self, data: DataChoice, form: Form, query: str, number: int) -> RowPage:
        """A page of the rows in which ``query`` occurs."""
        return cast(RowPage, self._look("find_rows", data, form, query, number))

    def row(self, data: DataChoice, form: Form, index: int) -> RenderedRow | None:
        """A row as the model sees it in training."""
        settings = self._settings(data, form)
        return cast("RenderedRow | None", self._previews.look("render_row", settings, self._vocabulary(), index))

    def mend(self, data: DataChoice, form: Form, fix: Fix) -> Path:
        """A file beside the data without such rows."""
        return cast(Path, self._look("mend", data, form, fix))

    def split(self, data: DataChoice, form: Form) -> tuple[Path, Path]:
        """Files beside the data: rows to train on, and the form's share of them to validate on."""
        return cast("tuple[Path, Path]", self._look("split", data, form, USUAL_SHARE))

    def _look(self, job: Any, data: DataChoice, form: Form, *arguments: object) -> Any:
        return self._previews.look(job, self._settings(data, form), *arguments)

    def _vocabulary(self) -> str:
        return str(self._model.tokenizer().vocab_file)
