"""Whether training still works: a loss or gradient that has broken down must not reach what is trained.

Waiting for a GPU's answer would leave the GPU without work. So it is asked without waiting and read a step later; until
then a broken step changes nothing. Knows numbers; what is done about it is the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.runs.events import is_collapsed


@dataclass(frozen=True)
class Collapse:
    """What broke down at ``step``: the loss, or with no loss given the gradient."""

    step: int
    loss: float | None


class _Question:
    """Losses of a step, and 1 where its gradients are finite, on their way to the host."""

    def __init__(self, step: int, answer: Tensor) -> None:
        self.step = step
        self._answer = answer
        self._arrived: torch.cuda.Event | None = None
        if answer.is_cuda:  # only a copy into pinned memory leaves the host free
            self._answer = torch.empty(answer.shape, pin_memory=True)
            self._answer.copy_(answer, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Collapse | None:
        if self._arrived is not None:
            self._arrived.synchronize()
        *losses, are_finite = self._answer.tolist()
        broken = next((loss for loss in losses if is_collapsed(loss)), None)
        return Collapse(self.step, broken) if broken is not None or not are_finite else None


class HealthWatch:
    """Looks at every step before it changes what is trained."""

    def __init__(self) -> None:
        self._open: _Question | None = None

    @torch.no_grad()
    def look(self, step: int, losses: Sequence[Tensor], gradients: Sequence[Tensor]) -> Collapse | None:
        """Check a step; on a GPU the answer is that of the step before, and broken gradients become zeros."""
        values = torch.stack([loss.detach().float() for loss in losses])
        checks = [torch.isfinite(gradient).all() for gradient in gradients]  # none with DeepSpeed, which keeps them
        finite = torch.stack(checks).all() if checks else torch.ones((), dtype=torch.bool)
        finite = finite.to(values.device)  # FSDP may keep gradients on the CPU
        if values.is_cuda:
            broken = ~(finite & (torch.isfinite(values) & (values != 0)).all())
            for gradient in gradients:
                gradient.masked_fill_(broken.to(gradient.device), 0.0)
        earlier = self.settle()
        self._open = _Question(step, torch.cat((values, finite.float().unsqueeze(0))))
        return earlier if values.is_cuda else self.settle()

    def settle(self) -> Collapse | None:
        """The answer that has not been read yet, if there is one; waits for it."""
        question, self._open = self._open, None
        return question.read() if question is not None else None
