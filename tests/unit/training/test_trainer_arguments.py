"""Every setting that transformers has, too, arrives there as it was set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from training.loop.trainer_arguments import build_arguments
from training.plan.step_plan import StepPlan
from training.settings.train import TrainingSettings, setting_fields

# A value that is not the default, and what is needed beside it.
HANDED_ON: dict[str, tuple[Any, dict[str, Any]]] = {
    "max_steps": (7, {}),
    "num_train_epochs": (2.5, {"max_steps": -1}),
    "per_device_train_batch_size": (3, {}),
    "gradient_accumulation_steps": (5, {}),
    "learning_rate": (3e-3, {}),
    "lr_scheduler_type": ("cosine", {}),
    "warmup_steps": (9, {}),
    "weight_decay": (0.1, {}),
    "max_grad_norm": (0.5, {}),
    "seed": (7, {}),
    "logging_steps": (3, {}),
    "save_steps": (11, {}),
    "eval_steps": (13, {"validation_file": "dev.json"}),
}
# Which checkpoints stay is this program's own decision (`keeping.py`), sharing the weights and recomputing are planned
# ones (`trainer_arguments.py`, `step_plan.py`), and an evaluation on its own needs no Trainer.
DECIDED_HERE = {
    *("load_best_model_at_end", "metric_for_best_model", "save_total_limit"),
    *("fsdp", "deepspeed", "gradient_checkpointing", "per_device_eval_batch_size"),
}


def arguments_for(directory: Path, values: dict[str, Any], plan: StepPlan | None = None) -> TrainingArguments:
    settings = TrainingSettings.from_dict(values)
    return build_arguments(settings, directory / ".staging", torch.device("cpu"), plan or StepPlan())


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_setting_arrives_at_transformers(tmp_path: Path, name: str) -> None:
    value, beside = HANDED_ON[name]
    default = next(item.default for item in setting_fields() if item.name == name)
    assert value != default
    assert getattr(arguments_for(tmp_path, {name: value, **beside}), name) == value
    if default is not None:
        assert getattr(arguments_for(tmp_path, {}), name) == default


def test_no_setting_of_transformers_is_forgotten() -> None:
    theirs = {item.name for item in setting_fields()} & TrainingArguments.__dataclass_fields__.keys()
    assert theirs == HANDED_ON.keys() | DECIDED_HERE


def test_merged_batches_are_the_same_step(tmp_path: Path) -> None:
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    arguments = arguments_for(tmp_path, values, StepPlan(merged=4))
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (8, 2)
