"""How a step is computed: how many of its batches at a time, and whether activations are kept or computed again.

Batches that are accumulated may as well run as one, which a GPU does many times faster: each row's labels keep the
weight that they have in their own batch (`RunTrainer.compute_loss`), so loss and gradient are the same. Knows sizes;
computes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration, PrefixEncoder
from chatglm2.kernels.availability import runs_triton
from chatglm2.memory.estimate import context_bytes, free_bytes, workspace_bytes
from training.plan.memory import (
    COPIES_OF_TRAINED_WEIGHTS,
    bytes_per_weight,
    bytes_still_to_come,
    parameter_count,
)
from training.plan.pass_memory import PassMemory, PassShape, pass_memory
from training.settings.keep_recipe import LONGEST_ROW_TOKENS
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)
# The rest is for chat, and for what the estimate leaves out.
USABLE_SHARE = 0.65
# Where nothing fits into that, a smaller pass may take nearly all: chat keeps what its engine has set aside.
MOST_USABLE_SHARE = 0.95
# A pass of this many tokens keeps a GPU busy: fewer batches at a time are better than computing layers twice.
ENOUGH_TOKENS = 1024
# A trainer multiplies in two threads, forward and backward, and each has a workspace.
WORKSPACES = 2

NOTHING_KNOWN = PassMemory()


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed.

    Attributes:
        merged: accumulated batches that run as one.
        recomputes: whether layers are computed again in the backward pass.
        rows: how many of a batch's rows run at a time, where there is no memory for all; None: all of them.
        memory: what one pass takes.
    """

    merged: int = 1
    recomputes: bool = False
    rows: int | None = None
    memory: PassMemory = NOTHING_KNOWN

    @property
    def bytes(self) -> int:
        """What one pass takes, about."""
        return self.memory.total


@dataclass(frozen=True)
class Place:
    """Where a training computes: what its passes' sizes depend on beside the settings.

    Attributes:
        config: of the model.
        dtype: of its weights.
        bits: in which they are held; 0 for ``dtype``.
        device: of this process.
        processes: that train together.
    """

    config: ChatGLMConfig
    dtype: torch.dtype
    bits: int
    device: torch.device
    processes: int = 1


def plan_step(model: ChatGLMForConditionalGeneration, settings: TrainingSettings, processes: int = 1) -> StepPlan:
    """The fastest way that fits into the memory that is free, for the longest batch; some way where none does.

    ``processes`` train together; nothing of the model has been shared out among them yet.
    """
    free = free_bytes(model.device) - bytes_still_to_come(model, settings, processes)
    place = Place(model.config, model.dtype, model.config.quantization_bit, model.device, processes)
    if not settings.trains_all_weights:  # its gradient and moments; the prefix itself is there
        free -= learning_bytes(settings, place) * (COPIES_OF_TRAINED_WEIGHTS - 1) // COPIES_OF_TRAINED_WEIGHTS
    chosen = choose_plan(place, settings, free - workspaces(model.device))
    logger.info(
        "The longest pass: about %.1f GiB; free: %.1f GiB; activations are %s; batches in a pass: %d; rows: %s.",
        chosen.bytes / 2**30,
        free / 2**30,
        "computed again" if chosen.recomputes else "kept",
        chosen.merged,
        chosen.rows or "all",
    )
    return chosen


def choose_plan(place: Place, settings: TrainingSettings, free: int) -> StepPlan:
    """The fastest way that leaves some of ``free`` bytes; else the largest pass that fits at all, else the smallest."""
    plans = list(_plans(place, settings))
    busy = [plan for plan in plans if plan.recomputes or plan.merged == plans[0].merged or _is_busy(plan, settings)]
    for share in (USABLE_SHARE, MOST_USABLE_SHARE):
        fitting = next((plan for plan in busy if plan.bytes <= share * free), None)
        if fitting is not None:
            return fitting
    return plans[-1]


def smallest_plan(place: Place, settings: TrainingSettings) -> StepPlan:
    """The way that takes least."""
    return list(_plans(place, settings))[-1]


def _plans(place: Place, settings: TrainingSettings) -> Iterator[StepPlan]:
    """All ways, the fastest first: whole passes that keep activations, such that compute them again, parts of them."""
    asked = settings.gradient_checkpointing
    ways = [recomputes for recomputes in (False, True) if asked == "auto" or recomputes == (asked == "on")]
    size = settings.per_device_train_batch_size
    for recomputes in ways:
        for merged in mergeable(settings):
            yield StepPlan(merged, recomputes, None, _pass_memory(place, settings, merged * size, recomputes))
    rows = size if can_split(settings, place.processes) else 1
    while rows > 1:
        rows = -(-rows // 2)
        yield StepPlan(1, ways[-1], rows, _pass_memory(place, settings, rows, ways[-1]))


def can_split(settings: TrainingSettings, processes: int) -> bool:
    """Whether a process may compute a pass in parts: alone, and where transformers does not compute the loss."""
    return processes == 1 and not settings.shares_weights and not smooths_labels(settings)


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


def bytes_wanted(settings: TrainingSettings, place: Place) -> int:
    """What training needs beside the weights that it shares: the smallest pass, and what learns with its moments.

    Where all weights learn, they are the run's own.
    """
    fixed = context_bytes(place.device) + workspaces(place.device) + learning_bytes(settings, place)
    return fixed + smallest_plan(place, settings).bytes


def learning_bytes(settings: TrainingSettings, place: Place) -> int:
    """What learns, its gradient and its moments."""
    if settings.trains_all_weights:
        return int(bytes_per_weight(settings, place.dtype, place.processes) * parameter_count(place.config))
    return COPIES_OF_TRAINED_WEIGHTS * 4 * _prefix_parameters(settings, place.config)  # a prefix is fp32


def workspaces(device: torch.device) -> int:
    """What the products' library takes for a trainer."""
    return WORKSPACES * workspace_bytes(device)


def place_for(settings: TrainingSettings, config: ChatGLMConfig, device: torch.device) -> Place:
    """Where settings will train, before weights are loaded."""
    bits = settings.quantization_bit or config.quantization_bit
    return Place(config, _planned_dtype(settings, config, device), bits, device)


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


def general_rows_at_once(settings: TrainingSettings, plan: StepPlan) -> int:
    """General rows in a pass, at most: so many that they take no more than the task's pass does."""
    rows = plan.rows or plan.merged * settings.per_device_train_batch_size
    return max(1, rows * _longest_row(settings) // LONGEST_ROW_TOKENS)


def _longest_row(settings: TrainingSettings) -> int:
    return settings.max_source_length + settings.max_target_length + 1


def _pass_memory(place: Place, settings: TrainingSettings, rows: int, recomputes: bool) -> PassMemory:
    length = _longest_row(settings)
    learnt = settings.max_target_length + 1 if settings.ignore_pad_token_for_loss else length
    shape = PassShape(
        item_bytes=place.dtype.itemsize,
        rows=rows,
        length=length,
        labels=min(learnt, length),
        pre_seq_len=settings.pre_seq_len or 0,
        fused=runs_triton(place.device, place.dtype),
        learns=settings.trains_all_weights,
        unpacks=bool(place.bits),
    )
    return pass_memory(place.config, shape, recomputes=recomputes)
