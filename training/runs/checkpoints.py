"""Checkpoints on disk: what a ``checkpoint-N`` directory or a lone prefix file is, told without loading a model.

Reads ours (``prefix.safetensors`` and ``prefix.json``), the original's (``pytorch_model.bin`` and ``config.json``), and
complete models that full fine-tuning left (``finetuned.json``). Does not know runs; `runs.py` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatglm2.errors import RunError
from chatglm2.model.prefix import CANDIDATE_FILES, PREFIX_FILE

METADATA_FILE = "prefix.json"
# Marks a checkpoint that is a complete model, and says what it is.
MODEL_METADATA_FILE = "finetuned.json"
TRAINER_STATE_FILE = "trainer_state.json"
# What a run needs, besides what it trains, to go on as if it had not been interrupted.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", TRAINER_STATE_FILE)
# Where several processes keep the optimizer instead: FSDP's directory, DeepSpeed's.
SHARDED_OPTIMIZERS = ("optimizer_*", "global_step*")
FILE_SUFFIXES = (".safetensors", ".bin")
DIRECTORY_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known about a checkpoint. ``pre_seq_len`` and ``loss`` are None where its files do not say.

    ``is_prefix`` is False for a complete model, which `chatglm2.load_model` loads.
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
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_best: bool = False
    is_prefix: bool = True

    @property
    def can_resume(self) -> bool:
        """Whether training can go on from it: it is ours, and the optimizer's state is there."""
        is_ours = not self.is_prefix or (self.path / PREFIX_FILE).is_file()
        if any(any(self.path.glob(pattern)) for pattern in SHARDED_OPTIMIZERS):
            return is_ours and (self.path / TRAINER_STATE_FILE).is_file()
        return is_ours and all((self.path / name).is_file() for name in RESUME_FILES)


def find_checkpoints(path: str | Path) -> list[CheckpointInfo]:
    """The prefix checkpoints at ``path``, by step: a checkpoint directory, a run's directory, or a prefix file.

    Raises:
        RunError: if there is none; a complete model is none.
    """
    place = Path(path).expanduser()
    if (place / MODEL_METADATA_FILE).is_file():
        raise _complete_model(place)
    if place.is_file() and place.suffix in FILE_SUFFIXES:
        return [read_checkpoint(place)]
    if place.is_dir():
        if any((place / name).is_file() for name in CANDIDATE_FILES):
            return [read_checkpoint(place)]
        found = checkpoints_in(place)
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
    """The complete ``checkpoint-N`` directories in ``directory``, by step."""
    places = [item for item in directory.glob("checkpoint-*") if DIRECTORY_NAME.fullmatch(item.name)]
    marks = (*CANDIDATE_FILES, MODEL_METADATA_FILE)
    complete = [item for item in places if any((item / name).is_file() for name in marks)]
    return sorted((read_checkpoint(item) for item in complete), key=lambda info: info.step)


def read_checkpoint(place: Path) -> CheckpointInfo:
    """What a checkpoint's own files say about it; missing or damaged metadata only leaves gaps."""
    directory = place if place.is_dir() else place.parent
    files = [item for item in directory.rglob("*") if item.is_file()] if place.is_dir() else [place]
    is_prefix = not (directory / MODEL_METADATA_FILE).is_file()
    metadata = _read_json(directory / (METADATA_FILE if is_prefix else MODEL_METADATA_FILE))
    config = _read_json(directory / "config.json")
    named = DIRECTORY_NAME.fullmatch(directory.name)
    length = metadata.get("pre_seq_len", config.get("pre_seq_len"))
    loss = metadata.get("loss", _last_loss(directory))
    return CheckpointInfo(
        path=place,
        run_name=str(metadata.get("run", directory.parent.name if named else directory.name)),
        step=int(metadata["step"] if "step" in metadata else named.group(1) if named else 0),
        loss=float(loss) if isinstance(loss, int | float) else None,
        pre_seq_len=int(length) if isinstance(length, int) else None,
        prefix_projection=bool(metadata.get("prefix_projection", config.get("prefix_projection", False))),
        size_bytes=sum(item.stat().st_size for item in files),
        created_at=float(metadata.get("created_at", place.stat().st_mtime)),
        base_model=str(metadata.get("base_model", "")),
        settings=metadata.get("settings", {}),
        is_prefix=is_prefix,
    )


def _complete_model(place: Path) -> RunError:
    return RunError(
        f"{place} holds a complete model, not a prefix. Open the page with it: ./launch.sh --model {place}",
        f"{place} 是完整的模型，而不是前缀。请用它启动网页：./launch.sh --model {place}",
    )


def _last_loss(directory: Path) -> float | None:
    """The loss that the original's trainer logged last."""
    history = _read_json(directory / TRAINER_STATE_FILE).get("log_history", [])
    return next((entry["loss"] for entry in reversed(history) if "loss" in entry), None)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
