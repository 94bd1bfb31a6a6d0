"""How one request chooses its tokens: numbers and their ranges. Knows no logits (`chatglm2.serving.sampler` does)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How one request chooses its tokens.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: keep the fewest most likely tokens that reach this probability together; 1 keeps all.
        top_k: keep that many most likely tokens; 0 keeps all.
        repetition_penalty: above 1, makes tokens of the prompt and the reply less likely.
        max_new_tokens: longest reply.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, found {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, found {self.top_k}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, found {self.repetition_penalty}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {self.max_new_tokens}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0
