"""Which request goes into which slot, what it finds there, and how far it is.

Knows token ids and prefixes' hashes. Knows no tensors, no thread and no model: what is written here about a slot, the
engine does to the cache.

A slot keeps its text when its row ends: a request that starts with the same tokens and has the same prefix, such as the
next turn of a conversation, computes only the rest.
"""

from __future__ import annotations

import itertools

from chatglm2.serving.request import Request
from chatglm2.serving.stream import Stream

# All prompts share their first tokens ("[Round 1]"): reusing fewer than these is not worth losing a conversation.
WORTH_REUSING = 32


class Slot:
    """One place of the cache, and what lies in it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.prefix_hash: str | None = None
        self.tokens: list[int] = []  # whose keys and values are in the cache, behind the prefix
        self.last_used = 0
        self.is_free = True

    def forget(self) -> None:
        """What lay in it is gone."""
        self.tokens = []
        self.prefix_hash = None

    def common_length(self, request: Request) -> int:
        """Leading tokens of a prompt that need not be computed; the last one always is, for its logits."""
        if request.prefix_hash != self.prefix_hash:
            return 0
        pairs = zip(self.tokens, request.prompt_ids[:-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class Row:
    """A request in its slot, and how far it is.

    Args:
        stream: of the request.
        slot: taken for it; what the request can use of its text counts as fed.
        limit: tokens of prompt and reply together that fit.
        has_new_prefix: whether its prefix is written for it, rather than found in the slot.
    """

    def __init__(self, stream: Stream, slot: Slot, limit: int, *, has_new_prefix: bool = False) -> None:
        request = stream.request
        self.stream = stream
        self.slot = slot
        self.prompt_ids = list(request.prompt_ids)
        self.prefix_length = request.prefix_length
        self.remaining = min(request.sampling.max_new_tokens, limit - len(self.prompt_ids))
        self.fed_tokens = len(slot.tokens)  # whose computation has been started
        self.last_token = -1
        self._found_tokens = None if has_new_prefix else len(slot.tokens)  # sound: another row left them
        self._is_sound: bool | None = None  # whether its logits are numbers; unknown before the first ones

    @property
    def is_prefilling(self) -> bool:
        return self.fed_tokens < len(self.prompt_ids)

    @property
    def is_finished(self) -> bool:
        return self.stream.finish_reason is not None

    @property
    def sound_tokens(self) -> int | None:
        """Tokens of the slot whose keys and values are surely numbers; None if not even the prefix's are."""
        if self._is_sound is None:
            return self._found_tokens
        return len(self.slot.tokens) if self._is_sound else None

    def note_logits(self, are_numbers: bool) -> None:
        """Logits were read: they are numbers only where all are that the row has computed before."""
        self._is_sound = are_numbers and self._is_sound is not False

    def take_prompt(self, most: int) -> list[int]:
        """The next tokens of the prompt, ``most`` of them at most; they lie in the slot from now on."""
        ids = self.prompt_ids[self.fed_tokens :][:most]
        self.slot.tokens += ids
        self.fed_tokens += len(ids)
        return ids


class SlotTable:
    """All slots: which are free, and which one saves a request most."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(index) for index in range(count)]
        self._clock = itertools.count(1)
        self.reused_tokens = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def has_free(self) -> bool:
        return any(slot.is_free for slot in self._slots)

    @property
    def idle(self) -> list[Slot]:
        """The slots that no request has, whatever lies in them."""
        return [slot for slot in self._slots if slot.is_free]

    def take(self, slot: Slot, request: Request) -> bool:
        """Take a free slot, cut to the text that the request shares with it; whether its prefix has to be written."""
        del slot.tokens[slot.common_length(request) :]
        self.reused_tokens += len(slot.tokens)
        needs_prefix = request.prefix_hash not in (slot.prefix_hash, None)
        slot.prefix_hash = request.prefix_hash
        slot.is_free = False
        slot.last_used = next(self._clock)
        return needs_prefix

    def choose(self, request: Request) -> Slot:
        """The free slot with the longest common text, if worth it, else an empty one or the one unused for longest."""
        free = self.idle
        common = [slot.common_length(request) for slot in free]
        longest = max(common)
        if longest >= min(WORTH_REUSING, len(request.prompt_ids) // 2):
            return free[common.index(longest)]
        return min(free, key=lambda slot: (bool(slot.tokens), slot.last_used, slot.index))

    def release(self, slot: Slot, *, forget: bool = False) -> None:
        """Let others have the slot; its text stays for whoever continues it, unless it is to be forgotten."""
        slot.is_free = True
        if forget:
            slot.forget()
