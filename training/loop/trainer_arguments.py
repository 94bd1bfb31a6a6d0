"""transformers' `TrainingArguments` for our settings.

Knows both sides' names and what must not be mixed up between them; trains nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from chatglm2.errors import RunError
from training.loop.model_setup import trainable_dtype
from training.plan.step_plan import StepPlan
from training.settings.train import TrainingSettings

# Since transformers 5.20 or so gradient checkpointing has a new name; the old one warns there.
_RENAMED = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
# What must not be changed behind our back: a run is stored, watched and resumed by these.
OURS = frozenset(
    (
        *("output_dir", "max_steps", "num_train_epochs", "seed", "use_cpu", "remove_unused_columns", "report_to"),
        *("fp16", "bf16", "deepspeed", "fsdp", "logging_nan_inf_filter", "save_strategy", "eval_strategy"),
    )
)
CHECKPOINTING = "activation_checkpointing" if _RENAMED else "gradient_checkpointing"


def build_arguments(
    settings: TrainingSettings, staging: Path, device: torch.device, plan: StepPlan
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
        "per_device_train_batch_size": settings.per_device_train_batch_size * plan.merged,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps // plan.merged,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        # One kernel for all that learns, without temporary copies: nothing is half done where memory runs out.
        "optim": "adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
        "seed": settings.seed,
        "logging_steps": settings.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": settings.save_steps,
        "eval_strategy": "steps" if settings.eval_steps else "no",
        "eval_steps": settings.eval_steps,
        "prediction_loss_only": True,
        CHECKPOINTING: plan.recomputes,
        f"{CHECKPOINTING}_kwargs": {"use_reentrant": False} if plan.recomputes else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device.type == "cuda",
        # A blocking copy of the next batch would wait for all that the GPU still has to do.
        "accelerator_config": {"non_blocking": device.type == "cuda"},
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        **_sharing(settings, device),
    }
    arguments = _checked_arguments(values, settings)
    # One process drives one GPU; left alone, Trainer would spread it over all of them with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if arguments.device.type == "cpu":  # not "cpu:1", as which transformers 5.17 cannot load an optimizer
        vars(arguments)["_setup_devices"] = torch.device("cpu")
    return arguments


def _checked_arguments(values: dict[str, Any], settings: TrainingSettings) -> TrainingArguments:
    """transformers' arguments; what was handed on to them is theirs to check.

    Raises:
        RunError: for what they do not take.
    """
    extra = settings.extra()
    extra.pop("fsdp_config", None)  # part of what `_sharing` made
    taken = [name for name in extra if name in OURS or name not in TrainingArguments.__dataclass_fields__]
    if taken:
        raise RunError(
            f"--extra_arguments cannot set {taken[0]!r}: it is not transformers', or this program decides it.",
            f"--extra_arguments 不能设置 {taken[0]!r}：transformers 没有该参数，或由本程序决定。",
        )
    try:
        return TrainingArguments(**{**values, **extra})
    except (ValueError, TypeError, ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"transformers does not take these arguments: {reason}", f"transformers 不接受这些参数：{reason}"
        ) from error


def _sharing(settings: TrainingSettings, device: torch.device) -> dict[str, Any]:
    """How the processes share all weights among them."""
    if settings.deepspeed:
        half = {"float16": "fp16", "bfloat16": "bf16"}.get(trainable_dtype(settings, device))
        return {"deepspeed": settings.deepspeed, **({half: True} if half else {})}
    words = settings.fsdp_words()
    if not words:
        return {}
    config = {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["GLMBlock"],
        "reshard_after_forward": "shard_grad_op" not in words,
        "cpu_offload": "offload" in words and device.type != "cpu",
        **settings.extra().get("fsdp_config", {}),
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": config}
