"""Keys and values of all slots, in memory that is taken once.

Knows rows and columns. Knows no requests and no order of things; the engine decides who is where.

A slot holds a prefix in its first columns and text behind it, so column = prefix length + text position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.configuration import ChatGLMConfig
from chatglm2.model.prefix import Prefix


class SlotCache:
    """A static cache of ``[layers, slots, capacity, groups, channels]`` keys and values.

    Answers ``update`` for the slots and columns that it was last pointed at.
    """

    def __init__(
        self, config: ChatGLMConfig, dtype: torch.dtype, device: torch.device, slots: int, capacity: int
    ) -> None:
        self.slots = slots
        self.capacity = capacity
        shape = (config.num_layers, slots, capacity, config.multi_query_group_num, config.kv_channels)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 * NaN is NaN.
        self._store = torch.zeros(shape[0], 2, *shape[1:], dtype=dtype, device=device)
        self.keys, self.values = self._store.unbind(1)
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
        new = torch.stack((key_states, value_states)).transpose(2, 3).flatten(1, 2)  # [2, B * S, G, D]
        return self.write(new, layer_idx)

    def write(self, new: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """As `update`, for keys and values together, ``[2, B * S, G, D]``."""
        layer = self._store[layer_idx]
        layer.flatten(1, 2).index_copy_(1, self._targets, new)
        keys, values = layer[:, self._slots, : self._seen_length].transpose(2, 3).unbind()
        return keys, values

    def write_prefix(self, slot: int, prefix: Prefix) -> None:
        """Put ``prefix`` in front of ``slot``."""
        ready = prefix.key_values.to(self.keys.device, self.keys.dtype)  # [layers, 2, P, G, D]
        self.keys[:, slot, : prefix.length] = ready[:, 0]
        self.values[:, slot, : prefix.length] = ready[:, 1]

    def erase(self, slot: int) -> None:
        """Forget everything of one slot."""
        self.keys[:, slot] = 0
        self.values[:, slot] = 0
