"""Prefixes made of prefixes: at a strength, side by side, and their mean.

Knows tensors and strengths; knows no attention and no file. See docs/strength.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from chatglm2.errors import PrefixError
from chatglm2.model.prefix import Prefix

MAXIMUM_STRENGTH = 1.5


@dataclass(frozen=True, eq=False)
class PrefixBlend(Prefix):
    """Prefixes side by side, each at its own strength; `blend_prefixes` makes one.

    A query weighs each token of a prefix of strength s as s tokens: the logits of its columns get log(s) more. A prefix
    of strength 0 has no tokens here at all, so that nothing of it is left to round.

    Attributes:
        parts: prefixes with their strengths, none of them a blend.
    """

    parts: tuple[tuple[Prefix, float], ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of one prefix its own, whatever its strength."""
        if len(self.parts) == 1:
            return self.parts[0][0].sha256
        return hashlib.sha256("+".join(part.sha256 for part, _ in self.parts).encode()).hexdigest()

    @property
    def identity(self) -> str:
        acting = [(part.sha256, strength) for part, strength in self.parts if strength]
        return "+".join(name if strength == 1 else f"{name}*{strength!r}" for name, strength in acting)

    @property
    def bias(self) -> Tensor | None:
        if all(strength in (0, 1) for _, strength in self.parts):
            return None
        return torch.cat([torch.full((part.length,), math.log(own)) for part, own in self.parts if own])

    def at(self, strength: float) -> Prefix:
        check_strength(strength)
        return _blend([(part, own * strength) for part, own in self.parts])


def blend_prefixes(parts: Sequence[tuple[Prefix, float]]) -> PrefixBlend:
    """Prefixes side by side in one conversation, each at its strength; their lengths add up.

    Raises:
        PrefixError: for a strength that is not from 0 to `MAXIMUM_STRENGTH`, or prefixes of unlike models.
    """
    for _, strength in parts:
        check_strength(strength)
    flat = []
    for prefix, strength in parts:
        own = prefix.parts if isinstance(prefix, PrefixBlend) else ((prefix, 1.0),)
        flat += [(part, inner * strength) for part, inner in own]
    return _blend(flat)


def _blend(parts: Sequence[tuple[Prefix, float]]) -> PrefixBlend:
    if not parts:
        raise ValueError("a blend needs at least one prefix")
    _require_like_shapes([prefix for prefix, _ in parts])
    acting = [part.key_values for part, strength in parts if strength]
    if not acting:
        acting = [parts[0][0].key_values[:, :, :0]]
    device = acting[0].device
    key_values = acting[0] if len(acting) == 1 else torch.cat([part.to(device) for part in acting], dim=2)
    origin = " + ".join(part.origin for part, _ in parts)
    return PrefixBlend(key_values, origin, any(part.projection for part, _ in parts), tuple(parts))


def average_prefixes(prefixes: Sequence[Prefix]) -> Prefix:
    """The mean of prefixes of one length, token by token, as a prefix of its own.

    Runs that began at one point, such as one seed on two halves of the data, end near enough for their mean to work;
    from unlike seeds it is of no use.

    Raises:
        PrefixError: for prefixes of unlike lengths or models.
    """
    _require_like_shapes(prefixes)
    lengths = [prefix.length for prefix in prefixes]
    if len(set(lengths)) != 1:
        found = ", ".join(map(str, lengths))
        raise PrefixError(
            f"A mean needs prefixes of one length, found {found} tokens. Choose checkpoints of runs with the same "
            "prefix length.",
            f"取平均要求前缀长度相同，实际为 {found}。请选择前缀长度相同的检查点。",
        )
    mean = torch.stack([prefix.key_values.float().cpu() for prefix in prefixes]).mean(dim=0)
    return Prefix(mean, " + ".join(prefix.origin for prefix in prefixes))


def flat_state(prefix: Prefix) -> dict[str, Tensor]:
    """The state dict of a `PrefixEncoder` without projection that gives ``prefix``, for `save_prefix`."""
    key_values = prefix.key_values.detach().float().cpu()
    return {"embedding.weight": key_values.permute(2, 0, 1, 3, 4).flatten(1).contiguous()}


def check_strength(strength: float) -> None:
    """Refuse what is no strength.

    Raises:
        PrefixError: if it is not a number from 0 to `MAXIMUM_STRENGTH`.
    """
    if not 0 <= strength <= MAXIMUM_STRENGTH:
        raise PrefixError(
            f"A prefix's strength is a number from 0 (the base model) to {MAXIMUM_STRENGTH:g}; found {strength!r}.",
            f"前缀强度应为 0（即基座模型）到 {MAXIMUM_STRENGTH:g} 之间的数，实际为 {strength!r}。",
        )


def _require_like_shapes(prefixes: Sequence[Prefix]) -> None:
    shapes = [(*prefix.key_values.shape[:2], *prefix.key_values.shape[3:]) for prefix in prefixes]
    if len(set(shapes)) > 1:
        found = ", ".join(" × ".join(map(str, shape)) for shape in shapes)
        raise PrefixError(
            f"These prefixes are of unlike models: {found} (layers × 2 × groups × channels). Choose prefixes that were "
            "trained on one base model.",
            f"这些前缀来自不同的模型：{found}（层 × 2 × 组 × 通道）。请选择在同一个基座模型上训练的前缀。",
        )
