"""Chosen tokens on their way from the device to the host. Knows rows by reference; chooses nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm2.serving.slots import Row


class Step:
    """One token for each of some rows, started and perhaps not yet there.

    Args:
        rows: whose they are.
        tokens: ``[n]`` on the device; what the next step is fed.
        outcome: ``[2, n]`` on the device: the tokens, and 1 where the logits were finite.
    """

    def __init__(self, rows: list[Row], tokens: Tensor, outcome: Tensor) -> None:
        self.rows = rows
        self.tokens = tokens
        self._outcome = outcome
        self._arrived: torch.cuda.Event | None = None
        if outcome.is_cuda:  # only a copy into pinned memory leaves the host free
            self._outcome = torch.empty(outcome.shape, dtype=outcome.dtype, pin_memory=True)
            self._outcome.copy_(outcome, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[list[int], list[int]]:
        """Tokens, and whether the logits were finite, a row each; waits for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens, healthy = self._outcome.tolist()
        return tokens, healthy
