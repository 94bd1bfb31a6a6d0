"""How the rows in the slots choose their tokens: parameters, random numbers, and what each has seen.

Knows slots and logits; knows no requests' order and no text. The choosing itself is `sampler`'s, which is pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.sampling import SamplingParams
from chatglm2.serving.sampler import SamplingBatch, choose_tokens


class SamplingState:
    """One state a slot, from the moment a request enters it.

    Args:
        slots: how many there are.
        vocabulary: tokens that logits are given for.
        device: where the logits are.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._size = (slots, vocabulary)
        self._device = device
        self._params: dict[int, SamplingParams] = {}
        self._generators: dict[int, torch.Generator] = {}
        self._seen: Tensor | None = None  # [slots, vocabulary]; allocated by the first repetition penalty
        self._batch: _Batch | None = None  # of the last step: most steps are of the same rows

    def enter(self, slot: int, params: SamplingParams, seed: int, prompt_ids: Sequence[int]) -> None:
        """A request takes ``slot``: its own random numbers start, and the penalty bears on its prompt alone."""
        self._params[slot] = params
        self._generators[slot] = torch.Generator().manual_seed(seed)
        self._batch = None
        if params.repetition_penalty != 1.0 and self._seen is None:
            self._seen = torch.zeros(self._size, dtype=torch.bool, device=self._device)
        if self._seen is not None:
            self._seen[slot] = False
            self._seen[slot, torch.tensor(prompt_ids, device=self._device)] = True

    def choose(self, slots: list[int], logits: Tensor) -> tuple[Tensor, Tensor]:
        """A token for the row in each of ``slots``, and whether its logits are numbers; see `choose_tokens`."""
        if self._batch is None or self._batch.slots != slots:
            self._batch = _Batch(slots, [self._params[slot] for slot in slots], self._device)
        uniforms = torch.cat([torch.rand(1, generator=self._generators[slot]) for slot in slots])
        uniforms = uniforms.to(self._device, non_blocking=True)
        index = self._batch.index
        seen = self._seen[index] if self._seen is not None else None
        tokens, healthy = choose_tokens(logits, self._batch.params, uniforms, seen)
        if self._seen is not None:
            self._seen[index, tokens] = True
        return tokens, healthy


class _Batch:
    """The rows that choose together, as tensors."""

    def __init__(self, slots: list[int], params: list[SamplingParams], device: torch.device) -> None:
        self.slots = slots
        self.index = torch.tensor(slots, device=device)
        self.params = SamplingBatch(params, device)
