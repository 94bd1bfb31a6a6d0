"""Keys and values of all slots, in memory that is taken once.

Knows rows and columns. Knows no requests and no order of things; the engine decides who is where.

A slot holds a prefix in its first columns and text behind it, so column = prefix length + text position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.modeling import ChatGLMForConditionalGeneration
from chatglm2.prefix import Prefix


class SlotCache:
    """A static cache of ``[layers, slots, capacity, groups, channels]`` keys and values.

    Answers ``update`` for the slots and columns that it was last pointed at.
    """

    def __init__(self, model: ChatGLMForConditionalGeneration, slots: int, capacity: int) -> None:
        config = model.config
        self.slots = slots
        self.capacity = capacity
        shape = (config.num_layers, slots, capacity, config.multi_query_group_num, config.kv_channels)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 * NaN is NaN.
        self.keys = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.values = torch.zeros_like(self.keys)
        self._slots: slice | Tensor = slice(0, 0)
        self._seen_length = 0
        self._targets = torch.empty(0)

    def point_at(self, slots: Sequence[int], columns: Tensor, seen_length: int) -> None:
        """Where the next forward pass writes, and how many columns it looks at.

        Args:
            slots: the slot of each row of the batch.
            columns: ``[B, S]``, the column of each new token.
            seen_length: columns that the queries are given.
        """
        index = torch.tensor(slots, device=columns.device)
        # Neighbouring slots are looked at as they lie; others are copied together.
        is_run = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self._slots = slice(slots[0], slots[0] + len(slots)) if is_run else index
        self._seen_length = seen_length
        self._targets = (index.unsqueeze(1) * self.capacity + columns).flatten()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store ``[B, G, S, D]`` and return all that the rows may look at, ``[B, G, K, D]``."""
        return (
            self._store(self.keys[layer_idx], key_states),
            self._store(self.values[layer_idx], value_states),
        )

    def _store(self, layer: Tensor, new: Tensor) -> Tensor:
        layer.flatten(0, 1).index_copy_(0, self._targets, new.transpose(1, 2).flatten(0, 1))
        return layer[self._slots, : self._seen_length].transpose(1, 2)

    def store_step(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """As `update`, for one token a row, ``[n, G, D]``."""
        seen = []
        for layer, new in ((self.keys[layer_idx], key), (self.values[layer_idx], value)):
            layer.flatten(0, 1).index_copy_(0, self._targets, new)
            seen.append(layer[self._slots, : self._seen_length].transpose(1, 2))
        return seen[0], seen[1]

    def write_prefix(self, slot: int, prefix: Prefix) -> None:
        """Put ``prefix`` in front of ``slot``."""
        ready = prefix.key_values.to(self.keys.device, self.keys.dtype)  # [layers, 2, P, G, D]
        self.keys[:, slot, : prefix.length] = ready[:, 0]
        self.values[:, slot, : prefix.length] = ready[:, 1]

    def erase(self, slot: int) -> None:
        """Forget everything of one slot."""
        self.keys[:, slot] = 0
        self.values[:, slot] = 0
