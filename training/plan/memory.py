"""What training all weights takes, and whether there is as much.

Knows sizes; moves nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm2.errors import RunError
from chatglm2.memory.estimate import free_bytes
from training.settings.train import TrainingSettings

# A weight that learns has a gradient and AdamW's two moments beside it, all in its dtype.
COPIES_OF_TRAINED_WEIGHTS = 4


def bytes_per_weight(settings: TrainingSettings, dtype: torch.dtype, processes: int) -> float:
    """What one of ``processes`` holds for a weight that learns: itself, its gradient and AdamW's moments."""
    if settings.deepspeed and dtype.itemsize == 2:
        # Below stage 3 each process holds the half-precision weights whole; the fp32 copy and moments are shared out.
        config = json.loads(Path(settings.deepspeed).read_text(encoding="utf-8"))
        whole = 0 if config.get("zero_optimization", {}).get("stage") == 3 else dtype.itemsize
        return whole + (2 * dtype.itemsize - whole + 3 * 4) / processes
    return COPIES_OF_TRAINED_WEIGHTS * dtype.itemsize / (processes if settings.shares_weights else 1)


def bytes_still_to_come(model: ChatGLMForConditionalGeneration, settings: TrainingSettings, processes: int = 1) -> int:
    """What gradients and moments will add to a loaded model; less than 0 where its weights will be shared out."""
    if not settings.trains_all_weights:
        return 0
    held = bytes_per_weight(settings, model.dtype, processes)
    return int((held - model.dtype.itemsize) * parameter_count(model.config))


def require_memory_for_all_weights(
    config: ChatGLMConfig,
    settings: TrainingSettings,
    dtype: torch.dtype,
    device: torch.device,
    processes: int = 1,
    local: int = 1,
) -> None:
    """Check, before anything is loaded, that weights, gradients and the optimizer's moments fit.

    Args:
        config: of the model.
        settings: which say how the weights are shared.
        dtype: of its weights.
        device: of this process.
        processes: that train together.
        local: those of them on this machine.

    Raises:
        RunError: with what is needed, what is free and what would fit.
    """
    each = int(bytes_per_weight(settings, dtype, processes) * parameter_count(config))
    here = local if device.type == "cpu" else 1  # processes on CPUs share one memory
    needed, free = each * here, free_bytes(device)
    if needed <= free:
        return
    sizes_en = f"about {needed / 2**30:.1f} GiB on {device}, and {free / 2**30:.1f} GiB are free"
    sizes_zh = f"在 {device} 上约需 {needed / 2**30:.1f} GiB，空闲 {free / 2**30:.1f} GiB"
    raise RunError(
        f"Training all {parameter_count(config) / 1e9:.2f} billion weights in {_name(dtype)} needs {sizes_en}. "
        "Train a prefix instead (--pre_seq_len 128), or share the weights among more GPUs (torchrun "
        "--standalone --nproc_per_node N -m training.main … --fsdp, or --deepspeed training/scripts/deepspeed.json).",
        f"以 {_name(dtype)} 训练全部 {parameter_count(config) / 1e9:.2f} 十亿个权重{sizes_zh}。"
        "请改为训练前缀（--pre_seq_len 128），或用多张 GPU 分摊权重（torchrun --standalone --nproc_per_node N "
        "-m training.main … --fsdp，或 --deepspeed training/scripts/deepspeed.json）。",
    )


def parameter_count(config: ChatGLMConfig) -> int:
    """How many numbers a model of ``config`` holds, its prefix not counted."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ChatGLMForConditionalGeneration(config).parameters())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
