"""Sets of settings that belong together, each with its reason.

Knows names and values; `train.py` checks them. What a user sets explicitly wins over a preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from training.settings.keep_recipe import MOST_STEPS

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
    "keep": 0.0,
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
    "prefix_init": "random",
    "keep": 0.0,
}

PRESETS: dict[str, Preset] = {
    "adgen": Preset(
        (
            "The original's train.sh: short prompts, one fixed task, a high rate. With --keep 0 it forgets most of "
            "the rest, as the original does.",
            "原版 train.sh 的设置：短提示、单一任务、高学习率。若用 --keep 0，则与原版一样遗忘大部分其他能力。",
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
    # As little as can be forgotten; docs/training.md has what it does on the demo model.
    "gentle": Preset(
        (
            "Forgets least: general questions count most beside the task, over more steps, and a look at what is "
            "forgotten. It takes about three times as long.",
            "遗忘最少：学习任务的同时最看重通用问题，步数更多，并检查遗忘了什么。用时约为三倍。",
        ),
        {"keep": 1.0, "max_steps": MOST_STEPS, "retention_check": "on"},
    ),
}
