"""What training takes: whether all weights can be trained here, and whether activations are kept or computed again.

Knows sizes; moves nothing.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import psutil
import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm2.errors import RunError
from training.arguments import TrainingSettings

logger = logging.getLogger(__name__)
# The estimate leaves out what the allocator wastes and what others take meanwhile.
USABLE_SHARE = 0.6
# A weight that learns has a gradient and AdamW's two moments beside it, all in its dtype.
COPIES_OF_TRAINED_WEIGHTS = 4


def should_recompute_activations(model: ChatGLMForConditionalGeneration, settings: TrainingSettings) -> bool:
    """What ``--gradient_checkpointing`` says, or for ``auto`` whether the longest batch might not fit otherwise."""
    if settings.gradient_checkpointing != "auto":
        return settings.gradient_checkpointing == "on"
    length = settings.max_source_length + settings.max_target_length + 1
    needed = activation_bytes(
        model.config,
        model.dtype.itemsize,
        settings.per_device_train_batch_size,
        length,
        settings.pre_seq_len or 0,
        settings.trains_all_weights,
    )
    free = free_bytes(model.device)
    recompute = needed > USABLE_SHARE * free
    logger.info(
        "Activations of the longest batch: about %.1f GiB; free: %.1f GiB; they are %s.",
        needed / 2**30,
        free / 2**30,
        "computed again" if recompute else "kept",
    )
    return recompute


def activation_bytes(
    config: ChatGLMConfig, item_bytes: int, batch: int, length: int, pre_seq_len: int, trains_weights: bool = False
) -> int:
    """What autograd keeps for a batch; frozen layers need no inputs of their matrix products.

    A layer keeps queries, keys, values and the attention's output, gate, activated gate and up-projection, and the
    inputs of both norms in fp32; where its weights learn also what the norms and the gate put out. The head keeps
    logits in the weights' dtype and twice in fp32; half a row is answer.
    """
    tokens = batch * length
    heads_width = config.num_attention_heads * config.kv_channels
    attention = item_bytes * heads_width * (2 * tokens + 2 * batch * (length + pre_seq_len))
    gating = item_bytes * 3 * config.ffn_hidden_size * tokens
    norms = 2 * 4 * config.hidden_size * tokens
    inputs = item_bytes * (2 * config.hidden_size + config.ffn_hidden_size) * tokens if trains_weights else 0
    logits = tokens // 2 * config.padded_vocab_size * (item_bytes + 8)
    return config.num_layers * (attention + gating + norms + inputs) + logits


def bytes_per_weight(settings: TrainingSettings, dtype: torch.dtype, processes: int) -> float:
    """What one of ``processes`` holds for a weight that learns: itself, its gradient and AdamW's moments."""
    if settings.deepspeed and dtype.itemsize == 2:
        # Below stage 3 each process holds the half-precision weights whole; the fp32 copy and moments are shared out.
        config = json.loads(Path(settings.deepspeed).read_text(encoding="utf-8"))
        whole = 0 if config.get("zero_optimization", {}).get("stage") == 3 else dtype.itemsize
        return whole + (2 * dtype.itemsize - whole + 3 * 4) / processes
    return COPIES_OF_TRAINED_WEIGHTS * dtype.itemsize / (processes if settings.shares_weights else 1)


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
        "--standalone --nproc_per_node N -m training.main … --fsdp, or --deepspeed training/deepspeed.json).",
        f"以 {_name(dtype)} 训练全部 {parameter_count(config) / 1e9:.2f} 十亿个权重{sizes_zh}。"
        "请改为训练前缀（--pre_seq_len 128），或用多张 GPU 分摊权重（torchrun --standalone --nproc_per_node N "
        "-m training.main … --fsdp，或 --deepspeed training/deepspeed.json）。",
    )


def parameter_count(config: ChatGLMConfig) -> int:
    """How many numbers a model of ``config`` holds, its prefix not counted."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ChatGLMForConditionalGeneration(config).parameters())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
