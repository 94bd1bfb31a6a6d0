"""How much of a device's memory conversations may take, and which idle ones give theirs up when it is short.

Knows slots' bytes, what is free and what was lent. Moves nothing and knows no requests: the engine does what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chatglm2.serving.cache import SlotCache
from chatglm2.serving.slots import Slot

# What a borrower leaves for chat at least: two short conversations.
LEAST_CONVERSATIONS = 2
LEAST_COLUMNS = 1024
# What stays free for the device's other small needs.
SPARE_BYTES = 64 * 2**20


class ConversationRoom:
    """The share of a device's memory that conversations may have.

    Args:
        cache: whose memory it is.
        free_bytes: what is free on the device now.
    """

    def __init__(self, cache: SlotCache, free_bytes: Callable[[], int]) -> None:
        self._cache = cache
        self._free_bytes = free_bytes
        self._borrowers: set[object] = set()
        self._limit: int | None = None  # while something is lent

    @property
    def taken(self) -> int:
        """Bytes under all conversations, idle ones as well."""
        return sum(self._cache.mapped_bytes(slot) for slot in range(self._cache.slots))

    @property
    def allowed(self) -> int:
        """Bytes that all conversations together may take now."""
        there = self.taken + max(self._free_bytes() - SPARE_BYTES, 0)
        return there if self._limit is None else min(self._limit, there)

    def lend(self, wanted: int, borrower: object) -> int:
        """Leave ``wanted`` bytes to a borrower as far as they are free; returns how many that are.

        Conversations keep what they have, and room for a few short ones.
        """
        free, least = self._free_bytes(), LEAST_CONVERSATIONS * LEAST_COLUMNS * self._cache.column_bytes
        limit = max(self.taken + free - wanted, least)
        self._limit = limit if self._limit is None else min(self._limit, limit)
        self._borrowers.add(borrower)
        return min(wanted, free)

    def take_back(self, borrower: object) -> None:
        """End a loan; with the last one conversations may take what is free again."""
        self._borrowers.discard(borrower)
        if not self._borrowers:
            self._limit = None

    def victims(self, slot: Slot, columns: int, idle: Iterable[Slot]) -> list[Slot] | None:
        """The idle slots, longest unused first, that give way for ``columns`` of ``slot``; None: all are too few."""
        over = self.taken + self._cache.missing_bytes(slot.index, columns) - self.allowed
        chosen = []
        for other in sorted(idle, key=lambda item: item.last_used):
            if over <= 0:
                break
            held = self._cache.mapped_bytes(other.index)
            if other is not slot and held:
                chosen.append(other)
                over -= held
        return chosen if over <= 0 else None

    @property
    def most_columns(self) -> int:
        """Columns of one conversation that has all of the room."""
        return self.allowed // self._cache.column_bytes
