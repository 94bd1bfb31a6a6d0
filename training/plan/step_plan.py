"""How a step is computed: how many of its batches at a time, and whether activations are kept or computed again.

Batches that are accumulated may as well run as one, which a GPU does many times faster: each row's labels keep the
weight that they have in their own batch (`RunTrainer.compute_loss`), so loss and gradient are the same. Knows sizes;
computes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration, PrefixEncoder
from chatglm2.kernels.availability import runs_triton
from chatglm2.memory.estimate import context_bytes, free_bytes
from chatglm2.model.head_loss import ROWS_AT_ONCE
from training.plan.memory import (
    COPIES_OF_TRAINED_WEIGHTS,
    bytes_per_weight,
    bytes_still_to_come,
    parameter_count,
)
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)
# The estimate leaves out what the allocator wastes and what others take meanwhile.
USABLE_SHARE = 0.6
# A pass of this many tokens keeps a GPU busy: fewer batches at a time are better than computing layers twice.
ENOUGH_TOKENS = 1024


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed.

    Attributes:
        merged: accumulated batches that run as one.
        recomputes: whether layers are computed again in the backward pass.
        bytes: what one pass takes, about.
    """

    merged: int = 1
    recomputes: bool = False
    bytes: int = 0


def plan_step(model: ChatGLMForConditionalGeneration, settings: TrainingSettings, processes: int = 1) -> StepPlan:
    """The fastest way that fits into the memory that is free, for the longest batch; some way where none does.

    ``processes`` train together; nothing of the model has been shared out among them yet.
    """
    free = free_bytes(model.device) - bytes_still_to_come(model, settings, processes)
    asked = settings.gradient_checkpointing
    plans = [
        StepPlan(merged, recomputes, _pass_bytes(model.config, model.dtype, model.device, settings, merged, recomputes))
        for recomputes in (False, True)
        for merged in mergeable(settings)
        if asked == "auto" or recomputes == (asked == "on")
    ]
    busy = [plan for plan in plans if plan.recomputes or plan.merged == plans[0].merged or _is_busy(plan, settings)]
    chosen = next((plan for plan in busy if plan.bytes <= USABLE_SHARE * free), plans[-1])
    logger.info(
        "Activations of the longest pass: about %.1f GiB; free: %.1f GiB; they are %s; batches in a pass: %d.",
        chosen.bytes / 2**30,
        free / 2**30,
        "computed again" if chosen.recomputes else "kept",
        chosen.merged,
    )
    return chosen


def mergeable(settings: TrainingSettings) -> list[int]:
    """How many accumulated batches may run as one, the most first.

    Not where all weights learn, whose memory is elsewhere, nor where padding is learnt, of which a longer pass has
    more, nor with smoothed labels, whose loss transformers computes.
    """
    steps = settings.gradient_accumulation_steps
    if settings.trains_all_weights or not settings.ignore_pad_token_for_loss or smooths_labels(settings):
        return [1]
    return [count for count in range(steps, 0, -1) if steps % count == 0]


def smooths_labels(settings: TrainingSettings) -> bool:
    """Whether transformers computes the loss, which knows no weights of rows."""
    return bool(settings.extra().get("label_smoothing_factor"))


def bytes_wanted(settings: TrainingSettings, config: ChatGLMConfig, device: torch.device) -> int:
    """What training needs beside the weights that it shares: the smallest pass, and what learns with its moments.

    The smallest pass has one of the settings' batches, and computes its layers again. Where all weights learn, they are
    the run's own.
    """
    dtype = _planned_dtype(settings, config, device)
    smallest = context_bytes(device) + _pass_bytes(config, dtype, device, settings, merged=1, recomputes=True)
    if settings.trains_all_weights:
        return smallest + int(bytes_per_weight(settings, dtype, 1) * parameter_count(config))
    return smallest + COPIES_OF_TRAINED_WEIGHTS * 4 * _prefix_parameters(settings, config)  # a prefix is fp32


def _planned_dtype(settings: TrainingSettings, config: ChatGLMConfig, device: torch.device) -> torch.dtype:
    """What activations will be in, or something as large: "auto" is decided when weights are loaded."""
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    found = config.dtype if device.type == "cuda" and isinstance(config.dtype, torch.dtype) else None
    return found or (torch.float16 if device.type == "cuda" else torch.float32)


def _prefix_parameters(settings: TrainingSettings, config: ChatGLMConfig) -> int:
    with torch.device("meta"):
        planned = ChatGLMConfig.from_dict(
            config.to_dict() | {"pre_seq_len": settings.pre_seq_len, "prefix_projection": settings.prefix_projection}
        )
        return sum(parameter.numel() for parameter in PrefixEncoder(planned).parameters())


def _is_busy(plan: StepPlan, settings: TrainingSettings) -> bool:
    return plan.merged * settings.per_device_train_batch_size * _longest_row(settings) >= ENOUGH_TOKENS


def _longest_row(settings: TrainingSettings) -> int:
    return settings.max_source_length + settings.max_target_length + 1


def _pass_bytes(
    config: ChatGLMConfig,
    dtype: torch.dtype,
    device: torch.device,
    settings: TrainingSettings,
    merged: int,
    recomputes: bool,
) -> int:
    item_bytes = dtype.itemsize
    rows, length = merged * settings.per_device_train_batch_size, _longest_row(settings)
    fused = runs_triton(device, dtype)
    learns = settings.trains_all_weights
    layer = layer_bytes(config, item_bytes, rows, length, settings.pre_seq_len or 0, fused=fused, learns=learns)
    labels = rows * length // 2 if learns else min(rows * length // 2, ROWS_AT_ONCE)
    logits = labels * config.padded_vocab_size * (item_bytes + 8)
    if not recomputes:
        return config.num_layers * layer + logits
    inputs = config.num_layers * rows * length * config.hidden_size * item_bytes
    return inputs + max(2 * layer, logits)  # a layer and its gradients


def layer_bytes(
    config: ChatGLMConfig, item_bytes: int, rows: int, length: int, pre_seq_len: int, *, fused: bool, learns: bool
) -> int:
    """What autograd keeps of a layer; frozen projections keep no inputs.

    Args:
        config: of the model.
        item_bytes: of an activation.
        rows: of the pass.
        length: tokens of a row.
        pre_seq_len: prefix tokens in front.
        fused: whether the layer's fused kernels run: they keep keys and values of each group, what the gate gets, and
            what the norms get. Plain operations keep keys and values of each head, three parts of the gate, and what
            the norms get in fp32.
        learns: whether the weights learn; then what goes into each projection is kept, too.
    """
    tokens = rows * length
    heads_width = config.num_attention_heads * config.kv_channels
    keys_width = config.multi_query_group_num * config.kv_channels if fused else heads_width
    attention = item_bytes * (2 * heads_width * tokens + 2 * keys_width * rows * (length + pre_seq_len))
    gating = item_bytes * (2 if fused else 3) * config.ffn_hidden_size * tokens
    norms = 2 * (item_bytes if fused else 4) * config.hidden_size * tokens
    inputs = item_bytes * (2 * config.hidden_size + config.ffn_hidden_size) * tokens if learns else 0
    return attention + gating + norms + inputs
