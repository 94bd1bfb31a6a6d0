"""Checkpoints on disk: what a ``checkpoint-N`` directory or a lone prefix file is, told without loading a model.

Reads ours (``prefix.safetensors`` and ``prefix.json``), the original's (``pytorch_model.bin`` and ``config.json``), and
complete models: ours (``finetuned.json``), and any other that lies there like one. `checkpoint_kind` alone decides
which. Does not know runs; `store.py` does.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatglm2.errors import RunError
from chatglm2.model.prefix_files import CANDIDATE_FILES, PREFIX_FILE
from training.runs.storage import SMALL_FILE_BYTES, read_json

METADATA_FILE = "prefix.json"
# Marks a checkpoint that is a complete model, and says what it is.
MODEL_METADATA_FILE = "finetuned.json"
TRAINER_STATE_FILE = "trainer_state.json"
# What an evaluation at several strengths proposes for a prefix.
STRENGTH_FILE = "strength.json"
# What a run needs, besides what it trains, to go on as if it had not been interrupted.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", TRAINER_STATE_FILE)
# Where several processes keep the optimizer instead: FSDP's directory, DeepSpeed's.
SHARDED_OPTIMIZERS = ("optimizer_*", "global_step*")
FILE_SUFFIXES = (".safetensors", ".bin")
# A complete model in parts has an index of them.
INDEX_PATTERN = "*.index.json"
DIRECTORY_NAME = re.compile(r"checkpoint-([0-9]{1,9})")
# Beyond these a number in a file is a mistake; the time is in seconds since the epoch, in the year 5138.
LARGEST_STEP, LATEST_TIME = 10**9, 1e11
# What transformers notes of a training grows with its steps.
TRAINER_STATE_BYTES = 8 * 2**20

# `chatglm2.load_prefix` loads the one, `chatglm2.load_model` the other.
CheckpointKind = Literal["prefix", "model"]
AnglePrecision = Literal["", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known about a checkpoint. ``pre_seq_len`` and the losses are None where its files do not say.

    ``loss`` is that of the training rows since the last point of the curve, ``validation_loss`` that of rows held back.

    ``rotary_angles`` are the precision of the angles that it was trained with, "" where its files do not say.
    """

    path: Path
    run_name: str
    step: int
    loss: float | None
    pre_seq_len: int | None
    prefix_projection: bool
    size_bytes: int
    created_at: float
    base_model: str = ""
    rotary_angles: AnglePrecision = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation_loss: float | None = None
    is_best: bool = False
    kind: CheckpointKind = "prefix"
    proposed_strength: float | None = None

    @property
    def is_prefix(self) -> bool:
        """Whether it goes with the model that is served; a complete model is one itself."""
        return self.kind == "prefix"

    @property
    def can_resume(self) -> bool:
        """Whether training can go on from it: it is ours, and the optimizer's state is there."""
        is_ours = (self.path / (PREFIX_FILE if self.is_prefix else MODEL_METADATA_FILE)).is_file()
        if any(any(self.path.glob(pattern)) for pattern in SHARDED_OPTIMIZERS):
            return is_ours and (self.path / TRAINER_STATE_FILE).is_file()
        return is_ours and all((self.path / name).is_file() for name in RESUME_FILES)


def checkpoint_kind(place: Path) -> CheckpointKind | None:
    """What a checkpoint's directory or a lone file holds; None for what is no checkpoint, or none that is complete.

    Weights beside a model's ``config.json`` are that model's, unless it gives a prefix's length.
    """
    if place.is_file():
        of_model = place.name in CANDIDATE_FILES and checkpoint_kind(place.parent) == "model"
        return ("model" if of_model else "prefix") if place.suffix in FILE_SUFFIXES else None
    if (place / MODEL_METADATA_FILE).is_file():
        return "model"
    if (place / PREFIX_FILE).is_file():
        return "prefix"
    config = _read(_Metadata, place / "config.json")
    of_model = bool(config.model_type) and not config.pre_seq_len
    if any((place / name).is_file() for name in CANDIDATE_FILES):
        return "model" if of_model else "prefix"
    return "model" if of_model and any(place.glob(INDEX_PATTERN)) else None


def find_checkpoints(path: str | Path) -> list[CheckpointInfo]:
    """The prefix checkpoints at ``path``, by step: a checkpoint directory, a run's directory, or a prefix file.

    Raises:
        RunError: if there is none; a complete model is none.
    """
    place = Path(path).expanduser()
    kind = checkpoint_kind(place)
    if kind == "prefix":
        return [read_checkpoint(place)]
    if kind == "model":
        raise _complete_model(place)
    found = checkpoints_in(place) if place.is_dir() else []
    prefixes = [info for info in found if info.is_prefix]
    if prefixes:
        return prefixes
    if found:
        raise _complete_model(found[-1].path)
    what_en = "a directory without a checkpoint" if place.is_dir() else "nothing that can be read"
    what_zh = "没有检查点的目录" if place.is_dir() else "无法读取的位置"
    raise RunError(
        f"{place} is {what_en}. Expected a checkpoint-N directory, a training run's directory, "
        f"or a prefix file ({PREFIX_FILE} or pytorch_model.bin).",
        f"{place} 是{what_zh}。应为 checkpoint-N 目录、训练目录，或前缀文件（{PREFIX_FILE} 或 pytorch_model.bin）。",
    )


def checkpoints_in(directory: Path) -> list[CheckpointInfo]:
    """The complete ``checkpoint-N`` directories in ``directory``, by step; one that vanishes meanwhile is left out."""
    try:
        places = [item for item in directory.iterdir() if DIRECTORY_NAME.fullmatch(item.name)]
    except OSError:
        return []
    found = []
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            kind = checkpoint_kind(place)
            if kind is not None:
                found.append(read_checkpoint(place, kind))
    return sorted(found, key=lambda info: info.step)


class _Metadata(BaseModel):
    """What a checkpoint's own file says about it; the original's ``config.json`` says the last things."""

    model_config = ConfigDict(extra="ignore")

    run: str | None = None
    base_model: str = ""
    rotary_angles: AnglePrecision = ""
    step: int | None = Field(default=None, ge=0, le=LARGEST_STEP)
    loss: float | None = None
    validation_loss: float | None = None
    created_at: float | None = Field(default=None, ge=0, le=LATEST_TIME)
    settings: dict[str, Any] = {}
    pre_seq_len: int | None = Field(default=None, ge=0, le=LARGEST_STEP)
    prefix_projection: bool = False
    model_type: str = ""


class _Strength(BaseModel):
    proposed: float | None = None


class _Logged(BaseModel):
    loss: float | None = None


class _TrainerState(BaseModel):
    """What the original's trainer, transformers', notes beside a checkpoint."""

    log_history: list[_Logged] = []


def read_checkpoint(place: Path, kind: CheckpointKind | None = None) -> CheckpointInfo:
    """What a checkpoint's own files say about it; missing or damaged metadata only leaves gaps.

    Raises:
        FileNotFoundError: if it is not there any more.
    """
    changed_at = place.stat().st_mtime
    is_directory = place.is_dir()
    directory = place if is_directory else place.parent
    kind = kind or checkpoint_kind(place) or "prefix"
    metadata = _read(_Metadata, directory / (METADATA_FILE if kind == "prefix" else MODEL_METADATA_FILE))
    told = metadata.model_fields_set
    shape = metadata if "pre_seq_len" in told else _read(_Metadata, directory / "config.json")
    named = DIRECTORY_NAME.fullmatch(directory.name)
    return CheckpointInfo(
        path=place,
        run_name=metadata.run or (directory.parent.name if named else directory.name),
        step=metadata.step if metadata.step is not None else int(named.group(1)) if named else 0,
        loss=metadata.loss if "loss" in told else _last_loss(directory),
        pre_seq_len=shape.pre_seq_len,
        prefix_projection=shape.prefix_projection,
        size_bytes=sum(_sizes(place)) if is_directory else place.stat().st_size,
        created_at=metadata.created_at if metadata.created_at is not None else changed_at,
        base_model=metadata.base_model,
        rotary_angles=metadata.rotary_angles,
        settings=metadata.settings,
        validation_loss=metadata.validation_loss,
        kind=kind,
        proposed_strength=_read(_Strength, directory / STRENGTH_FILE).proposed,
    )


def _sizes(directory: Path | str) -> Iterator[int]:
    """Bytes of each file below a directory; what vanishes meanwhile has none."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            elif entry.is_file():
                yield entry.stat().st_size


def require_prefix_length(asked: int | None, found: int | None) -> None:
    """Check ``--pre_seq_len`` against a checkpoint's prefix; None is whatever there is.

    Raises:
        RunError: the prefix has another length.
    """
    if None not in (asked, found) and asked != found:
        raise RunError(
            f"--pre_seq_len {asked} was given, but the checkpoint's prefix has {found} tokens. Leave the flag out.",
            f"指定了 --pre_seq_len {asked}，但检查点的前缀长度是 {found}。请去掉该参数。",
        )


def note_on_angles(info: CheckpointInfo, served: str) -> tuple[str, str] | None:
    """A sentence where a prefix was trained with other rotary angles than those of the model that it is used with.

    ``served`` is the model's ``rotary_angles``.
    """
    trained = info.rotary_angles
    if trained in ("", served):
        return None
    flags = "--rope-precision fp32" if trained == "float32" else f"--rope-precision reference --dtype {trained}"
    return (
        f"Trained with rotary angles in {trained}; here they are in {served}. To use its own, start with {flags}.",
        f"训练时旋转角以 {trained} 计算，这里以 {served} 计算；要与训练时一致，请用 {flags} 启动。",
    )


def _complete_model(place: Path) -> RunError:
    return RunError(
        f"{place} holds a complete model, not a prefix. Open the page with it: ./launch.sh --model {place}",
        f"{place} 是完整的模型，而不是前缀。请用它启动网页：./launch.sh --model {place}",
    )


def _last_loss(directory: Path) -> float | None:
    """The loss that the original's trainer logged last."""
    history = _read(_TrainerState, directory / TRAINER_STATE_FILE, TRAINER_STATE_BYTES).log_history
    return next((entry.loss for entry in reversed(history) if entry.loss is not None), None)


ContentT = TypeVar("ContentT", bound=BaseModel)


def _read(kind: type[ContentT], file: Path, limit_bytes: int = SMALL_FILE_BYTES) -> ContentT:
    """What a file says, without what is of a wrong type; nothing, if it cannot be read."""
    try:
        content = read_json(file, limit_bytes)
    except (OSError, ValueError):
        return kind()
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        if not isinstance(content, dict):
            return kind()
        wrong = {problem["loc"][0] for problem in error.errors(include_url=False, include_input=False)}
        return kind.model_validate({name: value for name, value in content.items() if name not in wrong})
