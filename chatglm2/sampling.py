"""How one request chooses its tokens: numbers and their ranges. Knows no logits (`chatglm2.serving.sampler` does)."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from typing import NamedTuple

from chatglm2.errors import RequestError

# Below it no draw can leave the most likely token, and dividing by it would leave fp32.
SMALLEST_TEMPERATURE = 1e-4
LARGEST_SEED = 2**64 - 1


class Range(NamedTuple):
    """What a number may be."""

    least: float
    most: float
    is_whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether ``value`` is such a number: finite, in the range, and whole where it has to be."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        if isinstance(value, numbers.Integral):
            return self.least <= int(value) <= self.most
        number = float(value)
        is_right_kind = number.is_integer() if self.is_whole else math.isfinite(number)
        return is_right_kind and self.least <= number <= self.most

    def require(self, name: str, value: object) -> None:
        """Refuse a ``value`` that is out of range.

        Raises:
            RequestError: with what it may be.
        """
        if self.holds(value):
            return
        kind_en, kind_zh = ("a whole number", "整数") if self.is_whole else ("a number", "数")
        found = repr(value)[:40]
        raise RequestError(
            f"{name} must be {kind_en} from {self.least} to {self.most}, found {found}.",
            f"{name} 应为 {self.least} 到 {self.most} 之间的{kind_zh}，实际为 {found}。",
        )


SEED = Range(0, LARGEST_SEED, is_whole=True)
RANGES = {
    "temperature": Range(0, 100),
    "top_p": Range(0, 1),
    "top_k": Range(0, 2**31 - 1, is_whole=True),
    "repetition_penalty": Range(0.01, 100),
    "max_new_tokens": Range(1, 2**31 - 1, is_whole=True),
}


@dataclass(frozen=True)
class SamplingParams:
    """How one request chooses its tokens.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: keep the fewest most likely tokens that reach this probability together; 1 keeps all, 0 the likeliest.
        top_k: keep that many most likely tokens; 0 keeps all.
        repetition_penalty: above 1, makes tokens of the prompt and the reply less likely.
        max_new_tokens: longest reply.

    Raises:
        RequestError: one is no number, or out of its range.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value, allowed = getattr(self, field.name), RANGES[field.name]
            allowed.require(field.name, value)
            object.__setattr__(self, field.name, int(value) if allowed.is_whole else float(value))

    @property
    def is_greedy(self) -> bool:
        return self.temperature < SMALLEST_TEMPERATURE
