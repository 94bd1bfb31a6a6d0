"""A step's passes, and smaller ones once memory ran out: loss and gradients stay the same. So it is with validation.

Knows rows, their weights and when memory is short. Does not know what a pass computes.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.data.encoding import IGNORED_LABEL
from training.runs.events import MessageEvent
from training.runs.store import Run

logger = logging.getLogger(__name__)
# What a pass is computed from: ``input_ids`` and ``labels`` ``[rows, length]``, and for a part of one ``loss_weights``;
# for general rows ``base_hidden``, too.
Rows = dict[str, Tensor]
# From a pass's labels to how much each label of a row counts; None where all count alike.
Weigh = Callable[[Tensor], Tensor | None]
# How libraries beside torch's allocator say it: CUDA, cuBLAS and Triton, then a CPU's allocator.
SHORTAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, whoever needed it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGES)


class Passes:
    """Takes each pass of a step as a whole, until memory runs out: from then on in parts, and layer by layer again.

    Where memory ran out in the backward pass, part of a gradient may be added already. So the step's gradients are
    thrown away, and its passes are taken once more; that costs no memory, as copies of gradients would.

    Args:
        run: is told.
        learning: what gets gradients.
        weigh: tells what each row counts for.
        recompute: lets layers be computed again in the backward pass.
        recomputes: whether they are already.
        can_split: whether this process may compute a pass in another way than planned.
        rows_at_once: how many rows are computed at a time from the beginning; None: all of a pass.
    """

    def __init__(
        self,
        run: Run,
        learning: Sequence[Tensor],
        weigh: Weigh,
        recompute: Callable[[], None],
        *,
        recomputes: bool,
        can_split: bool,
        rows_at_once: int | None = None,
    ) -> None:
        self._run = run
        self._learning = learning
        self._weigh = weigh
        self._recompute = recompute
        self._recomputes = recomputes
        self._can_split = can_split
        self._rows_at_once = rows_at_once
        self._measured_at_once: int | None = None
        self._failed_rows = 0
        self._step: list[Rows] = []

    def take(self, rows: Rows, compute: Callable[[Rows], Tensor]) -> Tensor:
        """The loss of a pass, whose gradients ``compute`` adds to the step's.

        Raises:
            torch.OutOfMemoryError: where not even one row fits, or another error that `is_out_of_memory` knows.
        """
        if all(parameter.grad is None for parameter in self._learning):
            self._step.clear()
        self._step.append(rows)
        loss = self._try(self._step[-1:], compute)
        if loss is not None:
            return loss
        first_rows = self._failed_rows
        while loss is None:
            self._shrink()
            self._forget()
            loss = self._try(self._step, compute)
        self._say(first_rows)
        return loss

    def measure(self, rows: Rows, compute: Callable[[Rows], Tensor]) -> Tensor:
        """The mean loss of a batch's labels, without gradients, in parts where memory runs out.

        Raises:
            torch.OutOfMemoryError: where not even one row fits, or another error that `is_out_of_memory` knows.
        """
        size = min(self._measured_at_once or len(rows["labels"]), len(rows["labels"]))
        while True:
            loss = self._measure(rows, size, compute)
            if loss is not None:
                return loss
            self._clear()
            self._failed_rows, size = size, -(-size // 2)
            self._measured_at_once = size
            self._run.append(
                MessageEvent(
                    en=f"Memory ran out while {self._failed_rows} rows were validated. The validation goes on with "
                    f"{size} at a time: slower, with the same result.",
                    zh=f"一次验证 {self._failed_rows} 行时内存不足。验证改为一次 {size} 行：速度较慢，结果不变。",
                )
            )

    def _measure(self, rows: Rows, size: int, compute: Callable[[Rows], Tensor]) -> Tensor | None:
        """None where memory ran out and less would do. Each part counts by its labels."""
        try:
            parts = split(rows, size, lambda labels: None)
            if len(parts) == 1:
                return compute(parts[0])
            total, count = rows["labels"].new_zeros((), dtype=torch.float32), 0
            for part in parts:
                part.pop("loss_weights")
                labels = int((part["labels"][:, 1:] != IGNORED_LABEL).sum())
                if labels:
                    total, count = total + labels * compute(part).float(), count + labels
            return total / max(count, 1)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._can_split or size == 1:
                raise
            logger.warning("Out of memory with %d rows at a time: %s", size, str(error).splitlines()[0])
        return None

    def with_room(self, work: Callable[[], Any]) -> Any:
        """``work``, which changes nothing before it has its memory; once more where it had none, with smaller passes.

        What passes left in reserve is given back first, and later ones leave more.

        Raises:
            torch.OutOfMemoryError: where that is not enough either, or another error that `is_out_of_memory` knows.
        """
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("Out of memory between two passes: %s", str(error).splitlines()[0])
        self._clear()
        if self._can_split and self._step:
            self._failed_rows = max(self._size(rows) for rows in self._step)
            if self._failed_rows > 1 or not self._recomputes:
                self._shrink()
                self._say(self._failed_rows)
        return work()

    def _try(self, passes: list[Rows], compute: Callable[[Rows], Tensor]) -> Tensor | None:
        """The last pass's loss; None where memory ran out and less would do."""
        loss = None
        for rows in passes:
            size = self._size(rows)
            try:
                losses = [compute(part) for part in split(rows, size, self._weigh)]
                loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            except RuntimeError as error:
                is_least = size == 1 and self._recomputes
                if not is_out_of_memory(error) or not self._can_split or is_least:
                    raise
                logger.warning("Out of memory with %d rows at a time: %s", size, str(error).splitlines()[0])
                self._failed_rows = size
                return None
        return loss

    def _size(self, rows: Rows) -> int:
        return min(self._rows_at_once or len(rows["labels"]), len(rows["labels"]))

    def _shrink(self) -> None:
        self._rows_at_once = -(-self._failed_rows // 2)
        if not self._recomputes:
            self._recompute()
            self._recomputes = True

    def _forget(self) -> None:
        """Give back what was left behind; the error and its frames, which held most, are gone by now."""
        for parameter in self._learning:
            parameter.grad = None
        self._clear()

    @staticmethod
    def _clear() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _say(self, first_rows: int) -> None:
        now = self._rows_at_once
        self._run.append(
            MessageEvent(
                en=f"Memory ran out with {first_rows} rows at a time. The run goes on with {now} at a time, and "
                "computes activations again: slower, with the same loss.",
                zh=f"一次计算 {first_rows} 行时内存不足。训练改为一次 {now} 行并重算激活值：速度较慢，损失不变。",
            )
        )


def split(rows: Rows, size: int, weigh: Weigh) -> list[Rows]:
    """Parts of at most ``size`` rows, whose losses add up to that of all: each label counts as it does there."""
    labels = rows["labels"]
    if size >= len(labels):
        return [dict(rows)]
    weights = rows["loss_weights"] if "loss_weights" in rows else weigh(labels)
    if weights is None:
        learnt = (labels[:, 1:] != IGNORED_LABEL).sum()
        weights = (1 / learnt.clamp(min=1)).float().expand(len(labels))
    rows = {**rows, "loss_weights": weights}
    parts = zip(*(tensor.split(size) for tensor in rows.values()), strict=True)
    return [dict(zip(rows, part, strict=True)) for part in parts]


def recompute_layers(model: Any) -> None:
    """Let a model's layers be computed again in the backward pass."""
    # Since transformers 5.20 or so it has a new name; the old one warns there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
