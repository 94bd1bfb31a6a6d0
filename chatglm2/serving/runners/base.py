"""What a runner takes and gives: parts of prompts and decode batches in, logits out.

Knows ids, slots and columns; knows no device. The engine computes with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class PromptPart:
    """Some tokens of one prompt, and where they go.

    Attributes:
        ids: the tokens.
        slot: the row's slot.
        start: text position of the first token.
        prefix_length: columns of the slot in front of the text.
    """

    ids: Sequence[int]
    slot: int
    start: int
    prefix_length: int

    @property
    def first_column(self) -> int:
        return self.prefix_length + self.start

    @property
    def end_column(self) -> int:
        return self.first_column + len(self.ids)


@dataclass(frozen=True)
class DecodeBatch:
    """One token a row, and where it goes.

    Attributes:
        ids: ``[n]``, each row's last token, on the model's device.
        slots: each row's slot.
        positions: its text position.
        columns: its column in the slot; all before it are looked at.
    """

    ids: Tensor
    slots: Sequence[int]
    positions: Sequence[int]
    columns: Sequence[int]


class Runner(Protocol):
    """Computes what comes next.

    Attributes:
        runs_ahead: whether the device works on while the host goes on, so that the next step should be started before
            the last one's tokens are read.
        threads: CPU threads that serve it best; None for torch's own choice.
        compile_seconds: what compiling took when it was built.
    """

    runs_ahead: bool
    threads: int | None
    compile_seconds: float

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        """Compute parts of prompts; logits ``[n, vocabulary]`` after the last token of each."""

    def decode(self, batch: DecodeBatch) -> Tensor:
        """Logits ``[n, vocabulary]`` after one token a row, valid until the next call."""
