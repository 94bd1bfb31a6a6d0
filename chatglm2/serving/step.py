"""Chosen tokens on their way from the device to the host. Knows rows by reference; chooses nothing."""

from __future__ import annotations

from torch import Tensor

from chatglm2.memory.host_copy import HostCopy
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
        self._outcome = HostCopy(outcome)

    def read(self) -> tuple[list[int], list[int]]:
        """Tokens, and whether the logits were finite, a row each; waits for them."""
        tokens, healthy = self._outcome.read()
        return tokens, healthy
