"""What is asked of the engine and whether it can be answered, and how busy the engine says it is.

Knows ids, prefixes and sampling; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatglm2.errors import PromptError
from chatglm2.model.prefix import Prefix
from chatglm2.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """What to continue, and how.

    Attributes:
        prompt_ids: token ids, special tokens included.
        prefix: what the row attends to in front of its text, or None for the base model.
        sampling: how tokens are chosen.
        seed: of the row's own random numbers; the same seed gives the same reply, whoever shares the batch.
    """

    prompt_ids: Sequence[int]
    prefix: Prefix | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0

    @property
    def prefix_length(self) -> int:
        """Prefix tokens in front of the text; 0 for the base model."""
        return self.prefix.length if self.prefix is not None else 0

    @property
    def prefix_hash(self) -> str | None:
        """What tells one prefix from another; None for the base model."""
        return self.prefix.sha256 if self.prefix is not None else None

    def check(self, limit: int) -> None:
        """Refuse a prompt that cannot be answered in ``limit`` tokens, prompt and reply together.

        Raises:
            PromptError: it is empty, or leaves no room for a reply.
        """
        length = len(self.prompt_ids)
        if length == 0:
            raise PromptError("The prompt is empty. Type something first.", "输入是空的，请先输入内容。")
        if length >= limit:
            raise PromptError(
                f"The prompt has {length:,} tokens; at most {limit - 1:,} fit, with room for a reply. "
                "Shorten it, or start with a larger --max-length.",
                f"输入有 {length:,} 个 token，最多只能容纳 {limit - 1:,} 个（还要给回复留出位置）。"
                "请缩短输入，或用更大的 --max-length 启动。",
            )


@dataclass(frozen=True)
class EngineStats:
    """How busy the engine is.

    Attributes:
        active: requests that hold a slot.
        waiting: requests that wait for one.
        slots: how many there are.
        max_length: tokens of prompt and reply together that one holds.
        reused_tokens: prompt tokens so far that were found in a slot and not computed again.
    """

    active: int
    waiting: int
    slots: int
    max_length: int
    reused_tokens: int
