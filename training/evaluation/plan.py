"""What is to be evaluated: which model with which prefix, on which file, and where the results go.

Looks at files and loads no weights, so that a mistake is told at once. What a request leaves open comes from the
checkpoint's own training, so that a prefix is judged as it was trained; every such choice is a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm2.errors import RunError
from chatglm2.model.prefix import Prefix
from training.evaluation.request import PREDICT, EvaluationRequest
from training.runs.checkpoints import DIRECTORY_NAME, CheckpointInfo, find_checkpoints
from training.runs.store import DEFAULT_STORE, RunStore
from training.settings.field import Words, is_true
from training.settings.samples import DEMO_MODEL, SAMPLE_DEV_FILE
from training.settings.train import TrainingSettings

# What an answer depends on, and what the memory of a GPU may depend on.
INHERITED = (
    *("model_name_or_path", "hub", "quantization_bit", "source_prefix", "truncation"),
    *("max_source_length", "max_target_length", "prompt_column", "response_column", "history_column"),
)
EVALUATIONS = "evaluation"


@dataclass(frozen=True)
class EvaluationPlan:
    """One evaluation, ready to be run.

    Attributes:
        split: ``predict`` or ``eval``.
        settings: everything that was asked for or left open.
        file: whose rows are answered.
        checkpoint: where the prefix is; None evaluates the model as it is.
        output_dir: where the results go.
        given: the settings that the request named.
        notes: what was chosen for the user, and what may surprise.
    """

    split: str
    settings: TrainingSettings
    file: Path
    checkpoint: Path | None
    output_dir: Path
    given: frozenset[str]
    notes: tuple[Words, ...]

    @property
    def limit(self) -> int | None:
        """Rows of the file that are used, at most."""
        return self.settings.max_predict_samples if self.split == PREDICT else self.settings.max_eval_samples

    def check_prefix(self, prefix: Prefix) -> None:
        """Hold a prefix to what the request says of it.

        Raises:
            RunError: if its length or projection differ from the flags.
        """
        length, projection = self.settings.pre_seq_len, self.settings.prefix_projection
        if "pre_seq_len" in self.given and length is not None and length != prefix.length:
            raise RunError(
                f"--pre_seq_len is {length}, but the prefix in {self.checkpoint} has {prefix.length} tokens. "
                "Leave the flag out, or choose another checkpoint.",
                f"--pre_seq_len 为 {length}，但 {self.checkpoint} 中的前缀长度是 {prefix.length}。"
                "请去掉该参数，或换一个检查点。",
            )
        if "prefix_projection" in self.given and projection != prefix.projection:
            found = "a" if prefix.projection else "no"
            raise RunError(
                f"--prefix_projection is {projection}, but the prefix in {self.checkpoint} has {found} projection. "
                "Leave the flag out, or choose another checkpoint.",
                f"--prefix_projection 为 {projection}，但 {self.checkpoint} 中的前缀"
                f"{'有' if prefix.projection else '没有'}映射。请去掉该参数，或换一个检查点。",
            )


def plan_evaluations(request: EvaluationRequest) -> list[EvaluationPlan]:
    """An evaluation for each split that is asked for.

    Raises:
        ChatGLMError: for a checkpoint, a file or settings that cannot be.
    """
    values, checkpoint, notes = choose_model(request.values)
    settings = TrainingSettings.from_dict(values)
    output_dir = request.output_dir or Path(DEFAULT_STORE) / EVALUATIONS / _name(settings, checkpoint)
    given = frozenset(request.values)
    plans = []
    for split in request.splits:
        file, file_notes = _choose_file(split, settings)
        plans.append(EvaluationPlan(split, settings, file, checkpoint, output_dir, given, (*notes, *file_notes)))
        notes = []
    return plans


def require_files(request: EvaluationRequest) -> None:
    """Refuse, before a training that is to be evaluated, what could not be evaluated after it.

    Raises:
        ChatGLMError: for a file that is not there or not named.
    """
    for split in request.splits:
        _choose_file(split, request.settings())


def choose_model(named: Mapping[str, Any]) -> tuple[dict[str, Any], Path | None, list[Words]]:
    """The named values with what the checkpoint adds to them, the checkpoint, and what was chosen for the user.

    Raises:
        ChatGLMError: for a checkpoint that cannot be.
    """
    values = dict(named)
    info, notes = _choose_checkpoint(values)
    if info is None:
        values["baseline"] = False
        return values, None, notes
    adopted = _adopted(info, values)
    if adopted:
        listed = " ".join(f"--{name} {value}" for name, value in adopted.items())
        notes.append((f"As the checkpoint was trained: {listed}", f"与检查点训练时相同：{listed}"))
    return {**adopted, **values}, info.path, notes


def _choose_checkpoint(values: dict[str, Any]) -> tuple[CheckpointInfo | None, list[Words]]:
    """The named checkpoint; without model and checkpoint the latest one, compared with its base."""
    if values.get("ptuning_checkpoint"):
        found = find_checkpoints(values["ptuning_checkpoint"])[-1]
        named = Path(values["ptuning_checkpoint"]).expanduser().resolve()
        if found.path.resolve() == named:
            return found, []
        return found, [(f"The last checkpoint there is {found.path}", f"其中最新的检查点：{found.path}")]
    comparison: list[Words] = []
    if is_true(values.get("baseline")):
        comparison = [
            ("--baseline compares a prefix with the model without it.", "--baseline 用于比较有无前缀的模型。")
        ]
    if "model_name_or_path" in values:
        en = "No --ptuning_checkpoint: the model is evaluated as it is, without a prefix."
        return None, [(en, "未指定 --ptuning_checkpoint：评估不带前缀的模型。"), *comparison]
    latest = _latest_checkpoint()
    if latest is None:
        en = f"There is no checkpoint in {DEFAULT_STORE}/ yet (./launch.sh train makes one): the untuned demo model is "
        zh = f"{DEFAULT_STORE}/ 中还没有检查点（可运行 ./launch.sh train 训练）：评估未微调的演示模型。"
        return None, [(en + "evaluated.", zh), *comparison]
    values.setdefault("baseline", True)
    return latest, [(f"The latest checkpoint: {latest.path}", f"最新的检查点：{latest.path}")]


def _latest_checkpoint() -> CheckpointInfo | None:
    """The best or last checkpoint of the newest run that has one of a prefix."""
    for run in RunStore(DEFAULT_STORE).list():
        if any(info.is_prefix for info in run.checkpoints()):
            return run.final_checkpoint()
    return None


def _adopted(info: CheckpointInfo, values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the checkpoint's training that the request leaves open and that are not the default."""
    defaults = TrainingSettings().to_dict()
    trained = {**info.settings, **({"model_name_or_path": info.base_model} if info.base_model else {})}
    adopted = {
        name: trained[name]
        for name in INHERITED
        if name in trained and name not in values and trained[name] != defaults[name]
    }
    base = Path(str(adopted.get("model_name_or_path", ".")))
    if base.is_absolute() and not base.exists():  # trained elsewhere
        del adopted["model_name_or_path"]
    return adopted


def _choose_file(split: str, settings: TrainingSettings) -> tuple[Path, list[Words]]:
    flag, path = "test_file", settings.test_file if split == PREDICT else None
    notes: list[Words] = []
    if path is None:
        flag, path = "validation_file", settings.validation_file
        if path and split == PREDICT:
            notes.append((f"No --test_file: answering {path}", f"未指定 --test_file：改为回答 {path}"))
    if path is None and settings.model_name_or_path == str(DEMO_MODEL):
        path = str(SAMPLE_DEV_FILE)
        notes.append((f"No data named: the sample data in {path}", f"未指定数据：使用示例数据 {path}"))
    if path is None:
        wanted = "--test_file" if split == PREDICT else "--validation_file"
        raise RunError(
            f"Which rows shall {settings.model_name_or_path} answer? Name a JSON, JSON lines or CSV file with "
            f"{wanted}.",
            f"要让 {settings.model_name_or_path} 回答哪些数据？请用 {wanted} 指定 JSON、JSON Lines 或 CSV 文件。",
        )
    if not Path(path).is_file():
        raise RunError(
            f"--{flag}: there is no file {path}. Check the path.", f"--{flag}：文件 {path} 不存在，请检查路径。"
        )
    return Path(path), notes


def _name(settings: TrainingSettings, checkpoint: Path | None) -> str:
    """Of the directory for results: the run and the step, or the model."""
    if checkpoint is None:
        return Path(settings.model_name_or_path).name
    place = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return f"{place.parent.name}-{place.name}" if DIRECTORY_NAME.fullmatch(place.name) else place.name
