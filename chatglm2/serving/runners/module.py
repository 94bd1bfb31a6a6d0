"""Running the model's own modules over the cache: right everywhere, and what the other runners are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.model.attention import add_bias
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch, PromptPart


class ModuleRunner:
    """Runs the model's own modules: right for every device and dtype."""

    runs_ahead = False
    threads: int | None = None
    compile_seconds = 0.0

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache) -> None:
        self._transformer = model.transformer
        self._cache = cache

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        """As `Runner.prefill`: parts are padded on the right to the longest.

        What padding writes lies behind a row's text and is written over before anyone looks; past the slot's end it
        piles up in the last column.
        """
        device = self._transformer.output_layer.weight.device
        longest = max(len(part.ids) for part in parts)
        ids = torch.tensor([[*part.ids, *[0] * (longest - len(part.ids))] for part in parts], device=device)
        starts = torch.tensor([[part.start] for part in parts], device=device)
        in_front = torch.tensor([[part.prefix_length] for part in parts], device=device)
        positions = starts + torch.arange(longest, device=device)
        columns = (positions + in_front).clamp(max=self._cache.capacity - 1)
        seen_length = min(max(part.first_column for part in parts) + longest, self._cache.capacity)
        slots = [part.slot for part in parts]
        bias = self._cache.bias_of(slots, seen_length)
        mask = None
        if len(parts) > 1 or device.type == "cpu" or bias is not None:
            mask = (torch.arange(seen_length, device=device) <= columns.unsqueeze(-1)).unsqueeze(1)  # [n, 1, S, K]
        self._cache.point_at(slots, columns, seen_length)
        hidden = self._transformer(ids, positions, add_bias(mask, bias), self._cache)
        last = torch.tensor([len(part.ids) - 1 for part in parts], device=device)
        return self._transformer.output_layer(hidden[torch.arange(len(parts), device=device), last])

    def decode(self, batch: DecodeBatch) -> Tensor:
        device = batch.ids.device
        mask = self.point_cache(batch)
        positions = torch.tensor(batch.positions, device=device).unsqueeze(1)
        hidden = self._transformer(batch.ids.unsqueeze(1), positions, mask, self._cache)
        return self._transformer.output_layer(hidden[:, -1])

    def point_cache(self, batch: DecodeBatch) -> Tensor | None:
        """Point the cache at the batch's columns; the mask ``[n, 1, 1, K]`` for unlike lengths or strengths."""
        columns = torch.tensor(batch.columns, device=batch.ids.device).unsqueeze(1)
        seen_length = max(batch.columns) + 1
        self._cache.point_at(batch.slots, columns, seen_length)
        mask = None
        if min(batch.columns) != max(batch.columns):
            mask = (torch.arange(seen_length, device=columns.device) <= columns)[:, None, None]
        return add_bias(mask, self._cache.bias_of(batch.slots, seen_length))
