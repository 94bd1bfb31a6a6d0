"""What tests of training do with a small run: look at its prefix, cut it short, write general rows for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.runs.events import StepEvent
from training.runs.store import Run, RunStore


def prefix_of(run: Run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint_path(step) / "prefix.safetensors")


def write_general_examples(file: Path) -> Path:
    """Rows with other columns than the task's, and a history."""
    rows = [{"prompt": f"{n}+1=?", "response": str(n + 1), "history": [["你好", "你好！"]]} for n in range(30)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def half_done_copy(store: RunStore, run: Run, kept_step: int) -> Run:
    """What a run looks like that was killed after its checkpoint of ``kept_step``."""
    copy = Run(store.root / "copy")
    shutil.copytree(run.path, copy.path)
    for info in copy.checkpoints():
        if info.step > kept_step:
            copy.delete_checkpoint(info.step)
    copy.update(resume_step=kept_step)
    return copy


def step_event(step: int, total_steps: int = 4, seconds_per_step: float = 0.5, loss: float = 2.0) -> StepEvent:
    return StepEvent(
        step=step,
        total_steps=total_steps,
        loss=loss,
        learning_rate=0.01,
        gradient_norm=1.0,
        seconds_per_step=seconds_per_step,
        tokens_per_second=100.0,
        seconds_left=1.0,
    )
