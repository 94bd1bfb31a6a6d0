"""Whether the backward pass keeps activations or computes them again.

Knows sizes; moves nothing.
"""

from __future__ import annotations

import logging

import psutil
import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration
from training.arguments import TrainingSettings

logger = logging.getLogger(__name__)
# The estimate leaves out what the allocator wastes and what others take meanwhile.
USABLE_SHARE = 0.6


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
        settings.pre_seq_len,
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


def activation_bytes(config: ChatGLMConfig, item_bytes: int, batch: int, length: int, pre_seq_len: int) -> int:
    """What autograd keeps for a batch through frozen layers, which need no inputs of their matrix products.

    A layer keeps queries, keys, values and the attention's output, gate, activated gate and up-projection, and the
    inputs of both norms in fp32. The head keeps logits in the weights' dtype and twice in fp32; half a row is answer.
    """
    tokens = batch * length
    heads_width = config.num_attention_heads * config.kv_channels
    attention = item_bytes * heads_width * (2 * tokens + 2 * batch * (length + pre_seq_len))
    gating = item_bytes * 3 * config.ffn_hidden_size * tokens
    norms = 2 * 4 * config.hidden_size * tokens
    logits = tokens // 2 * config.padded_vocab_size * (item_bytes + 8)
    return config.num_layers * (attention + gating + norms) + logits


def free_bytes(device: torch.device) -> int:
    """Memory that is free on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
