"""The model's passes over the cache on a GPU: prompts without padding, and one decode step for a batch.

Knows the model and the cache's tensors; a layer itself is `gpu_layer`'s. Knows no requests and no graphs. The tokens of
all prompts lie behind one another, and only attention goes prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.kernels.layer.decoding import decode_attention
from chatglm2.kernels.layer.rotation import Places
from chatglm2.model.attention import add_bias, attend
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import PromptPart
from chatglm2.serving.runners.gpu_layer import Attention, compute_layer, normalize, project


class GpuPasses:
    """Computes on the device where model and cache are."""

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        self._transformer = model.transformer
        self._device = model.device
        self._cache = cache
        positions = torch.arange(max_length, device=model.device).unsqueeze(0)
        rotation = model.transformer.rotary_pos_emb(positions)[0, :, 0]  # [T, R / 2]
        self._rotation = torch.view_as_real(rotation).flatten(1).contiguous()  # [T, R]: cosine, sine, cosine, …

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        """As `Runner.prefill`."""
        places: list[list[int]] = [[], [], [], []]
        for part in parts:
            length = len(part.ids)
            places[0] += part.ids
            places[1] += range(part.start, part.start + length)
            places[2] += range(part.first_column, part.end_column)
            places[3] += [part.slot] * length
        lengths = [len(part.ids) for part in parts]
        masks = [self._strength_mask(part) for part in parts]

        def attend_parts(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            contexts = []
            for part, own, mask in zip(parts, query.split(lengths), masks, strict=True):
                seen = (slice(part.slot, part.slot + 1), slice(0, part.end_column))
                context = attend(
                    own.transpose(0, 1)[None], keys[seen].transpose(1, 2), values[seen].transpose(1, 2), mask
                )
                contexts.append(context[0].transpose(0, 1).flatten(1))
            return torch.cat(contexts) if len(contexts) > 1 else contexts[0]

        ids, *rest = torch.tensor(places).to(self._device, non_blocking=True).unbind()
        hidden = self._compute(ids, Places(*rest), attend_parts)
        ends = torch.tensor(lengths).cumsum(0) - 1
        return project(self._transformer.output_layer, hidden[ends.to(self._device, non_blocking=True)])

    def step(self, ids: Tensor, places: Places) -> Tensor:
        """A decode step: logits ``[n, vocabulary]`` after ``ids`` ``[n]``."""

        def attend_slots(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return decode_attention(query, keys, values, places.columns, places.slots, self._cache.bias)

        hidden = self._compute(ids, places, attend_slots)
        return project(self._transformer.output_layer, hidden)

    def _strength_mask(self, part: PromptPart) -> Tensor | None:
        """What a part's logits get, ``[1, 1, S, K]``, where its prefix has a strength; without, flash needs no mask."""
        bias = self._cache.bias_of([part.slot], part.end_column)
        if bias is None:
            return None
        columns = torch.arange(part.end_column, device=self._device)
        return add_bias(columns <= columns[part.first_column :, None], bias)

    def _compute(self, ids: Tensor, places: Places, attention: Attention) -> Tensor:
        """Hidden states ``[n, H]`` after the final norm, for ``ids`` ``[n]``."""
        transformer, cache = self._transformer, self._cache
        x = transformer.embedding(ids)
        delta: Tensor | None = None
        for block, keys, values in zip(transformer.encoder.blocks(), cache.keys, cache.values, strict=True):
            delta = compute_layer(block, x, delta, self._rotation, places, keys, values, attention)
        return normalize(x, delta, transformer.encoder.final_layernorm)
