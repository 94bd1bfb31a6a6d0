"""What a comparison is asked for: rows, general questions, and who answers beside the base. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatglm2.errors import RunError
from training.evaluation.plan import choose_model, plan_evaluations
from training.evaluation.request import EvaluationRequest
from training.probes.choices import is_choice_file
from training.runs.checkpoints import find_checkpoints
from training.settings.field import Words
from training.settings.train import TrainingSettings


class ComparisonRequest(BaseModel):
    """Everything that a comparison needs; it lies in its directory.

    Attributes:
        values: the settings, by name.
        checkpoints: directories or files of prefixes, in the order in which they are shown.
        file: whose rows are the task; None answers none.
        general: a file of general questions, perhaps with answers of its own; None asks none.
        choices: a file of multiple-choice questions, or a directory of them.
        bias: a file of attributes and templates.
        notes: what was chosen for whoever asked, in English and Chinese.
    """

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    checkpoints: tuple[str, ...]
    file: str | None
    general: str | None = None
    choices: str | None = None
    bias: str | None = None
    notes: tuple[Words, ...] = ()

    def settings(self) -> TrainingSettings:
        """How rows are answered."""
        return TrainingSettings.from_dict(self.values)


def plan_comparison(
    values: Mapping[str, Any],
    checkpoints: Sequence[str],
    general: str | None,
    choices: str | None = None,
    bias: str | None = None,
    *,
    may_read: bool = True,
) -> ComparisonRequest:
    """What ``values`` and ``checkpoints`` ask for; what is left open is as the first checkpoint was trained.

    ``general`` may be a file of multiple-choice questions, too; where the caller ``may_read`` no uploaded file, the
    comparison's own process finds that out. Where only ``choices`` or ``bias`` are asked for and no
    file of rows is named, no rows are answered.

    Raises:
        ChatGLMError: for a checkpoint or a file that is not there.
    """
    asked = {"general": general, "choices": choices, "bias": bias}
    for flag, name in asked.items():
        _require_place(flag, name)
    notes: list[Words] = []
    if general and not choices and may_read and is_choice_file(Path(general)):
        asked |= {"general": None, "choices": general}
        notes.append(_recognised(general))
    places = list(dict.fromkeys(str(find_checkpoints(place)[-1].path) for place in checkpoints))
    named = {**values, **({"ptuning_checkpoint": places[0]} if places else {})}
    probes_alone = bool(asked["choices"] or asked["bias"]) and not asked["general"]
    if probes_alone and not (named.get("test_file") or named.get("validation_file")):
        chosen, checkpoint, found = choose_model(named)
        settings, file = TrainingSettings.from_dict(chosen), None
    else:
        plan = plan_evaluations(EvaluationRequest(named))[0]
        settings, checkpoint, found = plan.settings, plan.checkpoint, list(plan.notes)
        file = str(plan.file.resolve())
    if not places and checkpoint is not None:
        places = [str(checkpoint)]
    return ComparisonRequest(
        values=settings.to_dict(),
        checkpoints=tuple(places),
        file=file,
        notes=(*notes, *found),
        **{flag: None if name is None else str(Path(name).resolve()) for flag, name in asked.items()},
    )


def recognise_choices(request: ComparisonRequest) -> ComparisonRequest:
    """The request, whose general questions are scored by their letters if they turn out to be multiple choice."""
    if not request.general or request.choices or not is_choice_file(Path(request.general)):
        return request
    note = _recognised(request.general)
    moved = {"general": None, "choices": request.general, "notes": (*request.notes, note)}
    return request.model_copy(update=moved)


def _recognised(file: str) -> Words:
    return (
        f"{Path(file).name} holds multiple-choice questions: they are scored by their letters (--choices).",
        f"{Path(file).name} 是选择题文件：按选项字母评分（--choices）。",
    )


def _require_place(flag: str, name: str | None) -> None:
    if name is None or Path(name).is_file() or (flag == "choices" and Path(name).is_dir()):
        return
    raise RunError(f"--{flag}: there is no file {name}. Check the path.", f"--{flag}：文件 {name} 不存在，请检查路径。")


def read_checkpoint_list(text: str) -> list[str]:
    """Checkpoints as a person lists them, with commas between."""
    return [part.strip() for part in text.replace("，", ",").split(",") if part.strip()]
