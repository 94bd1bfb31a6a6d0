"""Every setting that transformers carries out reaches its `TrainingArguments`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from training.loop.trainer_arguments import CHECKPOINTING, build_arguments
from training.plan.step_plan import StepPlan
from training.settings.train import TrainingSettings

CPU = torch.device("cpu")


def arguments_of(settings: TrainingSettings, staging: Path, plan: StepPlan | None = None) -> TrainingArguments:
    return build_arguments(settings, staging, CPU, plan or StepPlan())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 11),
        ("num_train_epochs", 2.5),
        ("per_device_train_batch_size", 3),
        ("gradient_accumulation_steps", 6),
        ("learning_rate", 0.125),
        ("lr_scheduler_type", "cosine"),
        ("warmup_steps", 7),
        ("weight_decay", 0.25),
        ("max_grad_norm", 0.5),
        ("seed", 13),
        ("logging_steps", 4),
        ("save_steps", 5),
    ],
)
def test_a_setting_reaches_transformers(tmp_path: Path, name: str, value: object) -> None:
    assert getattr(TrainingSettings(), name) != value, "a default would pass unheard"
    assert getattr(arguments_of(replace(TrainingSettings(), **{name: value}), tmp_path), name) == value


def test_validation_is_at_steps_or_never(tmp_path: Path) -> None:
    asked = arguments_of(replace(TrainingSettings(), validation_file="rows.json", eval_steps=3), tmp_path)
    assert (asked.eval_strategy, asked.eval_steps) == ("steps", 3)
    assert arguments_of(TrainingSettings(), tmp_path).eval_strategy == "no"


def test_a_plan_changes_the_passes_of_a_step_and_not_its_rows(tmp_path: Path) -> None:
    settings = replace(TrainingSettings(), per_device_train_batch_size=3, gradient_accumulation_steps=6)
    planned = arguments_of(settings, tmp_path, StepPlan(merged=2, recomputes=True))
    assert (planned.per_device_train_batch_size, planned.gradient_accumulation_steps) == (6, 3)
    assert getattr(planned, CHECKPOINTING) and not getattr(arguments_of(settings, tmp_path), CHECKPOINTING)
