"""Keys and values of all slots. Knows rows, columns and the memory under them; the engine decides who is where.

A slot holds a prefix in its first columns and text behind it, so column = prefix length + text position.

On a GPU a slot is a range of addresses, and memory lies only under the columns that a conversation may use: a column's
keys and values of all layers lie side by side, so that a conversation's first columns are one piece of memory. A
captured graph goes on with the addresses whatever lies under them. Elsewhere all slots lie in one tensor, of which a
system gives memory to what is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.configuration import ChatGLMConfig
from chatglm2.memory.driver import PagedMemory, page_bytes, whole_pages
from chatglm2.model.prefix import Prefix


class SlotCache:
    """A static cache of ``[layers, slots, capacity, groups, channels]`` keys and values.

    Answers ``update`` for the slots and columns that it was last pointed at.

    Attributes:
        keys: ``[layers, slots, capacity, groups, channels]``.
        values: likewise.
        bias: fp32 ``[slots, capacity]``, what the logits of each column get for its prefix's strength.
        column_bytes: what one column of a slot takes.
    """

    def __init__(
        self, config: ChatGLMConfig, dtype: torch.dtype, device: torch.device, slots: int, capacity: int
    ) -> None:
        self.slots = slots
        self.capacity = capacity
        self.column_bytes = config.num_layers * 2 * config.multi_query_group_num * config.kv_channels * dtype.itemsize
        self._store = self._allocate(config, dtype, device)
        self.keys, self.values = self._store.unbind(1)
        self.bias = torch.zeros(slots, capacity, dtype=torch.float32, device=device)
        self._biased: set[int] = set()  # slots whose row of it is not all zeros
        self._slots: slice | Tensor = slice(0, 0)
        self._seen_length = 0
        self._targets = torch.empty(0)

    def _allocate(self, config: ChatGLMConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Keys and values, ``[layers, 2, slots, capacity, groups, channels]``."""
        shape = (config.num_layers, 2, self.slots, self.capacity, config.multi_query_group_num, config.kv_channels)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 * NaN is NaN.
        return torch.zeros(shape, dtype=dtype, device=device)

    def mapped_bytes(self, slot: int) -> int:
        """Memory under a slot that can be taken away again."""
        return 0

    def missing_bytes(self, slot: int, columns: int) -> int:
        """What a slot's first ``columns`` need beyond what lies under it."""
        return 0

    def provide(self, slot: int, columns: int) -> None:
        """Put memory under a slot's first ``columns``.

        Raises:
            torch.OutOfMemoryError: if there is none.
        """

    def withdraw(self, slot: int) -> None:
        """Take the memory from under a slot, and with it what the slot holds."""

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

    def bias_of(self, slots: Sequence[int], seen_length: int) -> Tensor | None:
        """`bias` of some slots' first columns, ``[n, 1, 1, K]`` in the keys' dtype; None where all of it is 0."""
        if self._biased.isdisjoint(slots):
            return None
        return self.bias[list(slots), None, None, :seen_length].to(self.keys.dtype)

    def write_prefix(self, slot: int, prefix: Prefix | None) -> None:
        """Put ``prefix`` in front of ``slot``, or nothing."""
        self._clear_bias(slot)
        if prefix is None:
            return
        if prefix.bias is not None:
            self.bias[slot, : prefix.length] = prefix.bias.to(self.bias.device)
            self._biased.add(slot)
        ready = prefix.key_values.to(self.keys.device, self.keys.dtype)  # [layers, 2, P, G, D]
        self.keys[:, slot, : prefix.length] = ready[:, 0]
        self.values[:, slot, : prefix.length] = ready[:, 1]

    def erase(self, slot: int, first_column: int = 0) -> None:
        """Forget what lies in one slot, from a column on."""
        if not first_column:
            self._clear_bias(slot)
        self.keys[:, slot, first_column:] = 0
        self.values[:, slot, first_column:] = 0

    def _clear_bias(self, slot: int) -> None:
        if slot in self._biased:
            self.bias[slot] = 0
            self._biased.remove(slot)


class PagedSlotCache(SlotCache):
    """A `SlotCache` on a GPU whose slots have memory only where they are used."""

    def _allocate(self, config: ChatGLMConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
        self._slot_bytes = whole_pages(self.capacity * self.column_bytes, device)
        self._memory = PagedMemory(self.slots * self._slot_bytes, device)
        # Whoever launches a kernel asks the driver about the address that a tensor starts at: it must be memory always.
        self._anchor = page_bytes(device)
        self._memory.map(0, self._anchor)
        self._memory.tensor()[: self._anchor].zero_()
        self._mapped = [self._anchor] + [0] * (self.slots - 1)  # bytes under each slot, from its start
        self._pieces: list[list[int]] = [[] for _ in range(self.slots)]  # offsets of what was mapped
        groups, channels = config.multi_query_group_num, config.kv_channels
        column = config.num_layers * 2 * groups * channels
        return (
            self._memory.tensor()
            .view(dtype)
            .as_strided(
                (config.num_layers, 2, self.slots, self.capacity, groups, channels),
                (2 * groups * channels, groups * channels, self._slot_bytes // dtype.itemsize, column, channels, 1),
            )
        )

    def mapped_bytes(self, slot: int) -> int:
        return self._mapped[slot] - self._least(slot)

    def missing_bytes(self, slot: int, columns: int) -> int:
        needed = min(whole_pages(columns * self.column_bytes, self._memory.device), self._slot_bytes)
        return max(needed - self._mapped[slot], 0)

    def provide(self, slot: int, columns: int) -> None:
        missing = self.missing_bytes(slot, columns)
        if not missing:
            return
        offset = slot * self._slot_bytes + self._mapped[slot]
        self._memory.map(offset, missing)
        self._pieces[slot].append(offset)
        self._mapped[slot] += missing
        # A masked key has weight 0, and 0 times what memory held before may be NaN.
        self._memory.tensor()[offset : offset + missing].zero_()

    def withdraw(self, slot: int) -> None:
        self._clear_bias(slot)
        torch.cuda.current_stream(self._memory.device).synchronize()  # whoever uses it has to be done
        for offset in self._pieces[slot]:
            self._memory.unmap(offset)
        self._pieces[slot], self._mapped[slot] = [], self._least(slot)

    def _least(self, slot: int) -> int:
        return 0 if slot else self._anchor

    def write(self, new: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        layer = self._store[layer_idx]
        layer[:, self._targets // self.capacity, self._targets % self.capacity] = new
        keys, values = layer[:, self._slots, : self._seen_length].transpose(2, 3).unbind()
        return keys, values

    def erase(self, slot: int, first_column: int = 0) -> None:
        if not first_column:
            self._clear_bias(slot)
        start = slot * self._slot_bytes
        end = start + self._mapped[slot]
        self._memory.tensor()[min(start + first_column * self.column_bytes, end) : end].zero_()


def build_cache(
    config: ChatGLMConfig, dtype: torch.dtype, device: torch.device, slots: int, capacity: int, *, paged: bool
) -> SlotCache:
    """The cache that takes memory as it is used, or one that takes all at once."""
    kind = PagedSlotCache if paged else SlotCache
    return kind(config, dtype, device, slots, capacity)
