"""Sets of settings that belong together, each with its reason.

Knows names and values; `train.py` checks them. What a user sets explicitly wins over a preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Words = tuple[str, str]  # English, Chinese
PresetName = Literal["adgen", "chat", "gentle"]


@dataclass(frozen=True)
class Preset:
    """Several settings at once."""

    reason: Words
    values: Mapping[str, int | float | str]


# 16 batches of one example, which run as one where there is memory (`step_plan.py`).
_ORIGINAL = {
    "pre_seq_len": 128,
    "max_steps": 3000,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "logging_steps": 10,
    "save_steps": 1000,
}

# What the original's main.py does where a flag is left out: its own defaults, and those of transformers 4.30.
ORIGINAL_DEFAULTS: Mapping[str, int | float | str | None] = {
    "max_source_length": 1024,
    "max_target_length": 128,
    "truncation": "original",
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "logging_steps": 500,
    "save_steps": 500,
    "max_eval_samples": None,
}

PRESETS: dict[str, Preset] = {
    "adgen": Preset(
        (
            "The original's train.sh: short prompts, one fixed task, a high rate. It learns the task thoroughly and "
            "forgets most of the rest.",
            "原版 train.sh 的设置：短提示、单一任务、高学习率。任务学得彻底，但会遗忘大部分其他能力。",
        ),
        {**_ORIGINAL, "max_source_length": 64, "max_target_length": 128, "learning_rate": 2e-2},
    ),
    "chat": Preset(
        (
            "The original's train_chat.sh: room for earlier rounds and longer answers, and half the rate, as "
            "conversations vary more than one task.",
            "原版 train_chat.sh 的设置：为多轮历史和更长的回答留出空间；对话比单一任务更多样，学习率减半。",
        ),
        {**_ORIGINAL, "max_source_length": 256, "max_target_length": 256, "learning_rate": 1e-2},
    ),
    # Half the original's rate, and steps enough for it; docs/training.md has what it does on the demo model.
    "gentle": Preset(
        (
            "Forgets less: smaller steps and more of them, and a look at what is forgotten. Add general data to mix in "
            "(--mix_file): that helps most.",
            "遗忘更少：步子更小、步数更多，并检查遗忘了什么。请再指定要混入的通用数据（--mix_file），效果最明显。",
        ),
        {"learning_rate": 1e-2, "max_steps": 240, "mix_ratio": 0.3, "retention_check": "on"},
    ),
}
