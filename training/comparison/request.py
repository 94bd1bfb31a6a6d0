"""What a comparison is asked for: rows, general questions, and who answers beside the base. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatglm2.errors import RunError
from training.evaluation.plan import plan_evaluations
from training.evaluation.request import EvaluationRequest
from training.runs.checkpoints import find_checkpoints
from training.settings.field import Words
from training.settings.train import TrainingSettings


class ComparisonRequest(BaseModel):
    """Everything that a comparison needs; it lies in its directory.

    Attributes:
        values: the settings, by name.
        checkpoints: directories or files of prefixes, in the order in which they are shown.
        file: whose rows are the task.
        general: a file of general questions, perhaps with answers of its own; None asks none.
        notes: what was chosen for whoever asked, in English and Chinese.
    """

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    checkpoints: tuple[str, ...]
    file: str
    general: str | None = None
    notes: tuple[Words, ...] = ()

    def settings(self) -> TrainingSettings:
        """How rows are answered."""
        return TrainingSettings.from_dict(self.values)


def plan_comparison(values: Mapping[str, Any], checkpoints: Sequence[str], general: str | None) -> ComparisonRequest:
    """What ``values`` and ``checkpoints`` ask for; what is left open is as the first checkpoint was trained.

    Raises:
        ChatGLMError: for a checkpoint or a file that is not there.
    """
    places = list(dict.fromkeys(str(find_checkpoints(place)[-1].path) for place in checkpoints))
    named = {**values, **({"ptuning_checkpoint": places[0]} if places else {})}
    plan = plan_evaluations(EvaluationRequest(named))[0]
    if not places and plan.checkpoint is not None:
        places = [str(plan.checkpoint)]
    if general is not None and not Path(general).is_file():
        raise RunError(
            f"--general: there is no file {general}. Check the path.", f"--general：文件 {general} 不存在，请检查路径。"
        )
    return ComparisonRequest(
        values=plan.settings.to_dict(),
        checkpoints=tuple(places),
        file=str(plan.file.resolve()),
        general=None if general is None else str(Path(general).resolve()),
        notes=plan.notes,
    )


def read_checkpoint_list(text: str) -> list[str]:
    """Checkpoints as a person lists them, with commas between."""
    return [part.strip() for part in text.replace("，", ",").split(",") if part.strip()]
