"""transformers' `TrainingArguments` for our settings.

Knows both sides' names and what must not be mixed up between them; trains nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from training.arguments import TrainingSettings

# Since transformers 5.20 or so gradient checkpointing has a new name; the old one warns there.
_RENAMED = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
CHECKPOINTING = "activation_checkpointing" if _RENAMED else "gradient_checkpointing"


def build_arguments(
    settings: TrainingSettings, staging: Path, device: torch.device, recompute_activations: bool
) -> TrainingArguments:
    """transformers' arguments for our settings.

    Mixed precision is off: weights are loaded in the dtype they are computed in, and a prefix stays fp32, as in the
    original.
    """
    values: dict[str, Any] = {
        "output_dir": str(staging),
        "use_cpu": device.type == "cpu",
        "max_steps": settings.max_steps,
        "num_train_epochs": settings.num_train_epochs,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        # One kernel for all weights, without temporary copies of them.
        "optim": "adamw_torch_fused" if settings.trains_all_weights and device.type == "cuda" else "adamw_torch",
        "seed": settings.seed,
        "logging_steps": settings.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": settings.save_steps,
        "eval_strategy": "steps" if settings.eval_steps else "no",
        "eval_steps": settings.eval_steps,
        "prediction_loss_only": True,
        CHECKPOINTING: recompute_activations,
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False} if recompute_activations else None,
        "dataloader_pin_memory": device.type == "cuda",
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(**values)
    # One process drives one GPU; left alone, Trainer would spread it over all of them with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
