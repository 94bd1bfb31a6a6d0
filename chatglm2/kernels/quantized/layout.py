"""The packed layout in plain torch: what every backend must agree with.

Knows no devices and no speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantized weight of N rows (outputs) and K columns (inputs).

    Attributes:
        integers: int8, ``[N, K]`` for 8 bits, ``[N, K / 2]`` for 4, the first of two columns in the high nibble.
        scale: ``[N]``, or ``[N, K / group]``.
        bits: 4 or 8.
    """

    integers: Tensor
    scale: Tensor
    bits: int

    @property
    def rows(self) -> int:
        return self.integers.shape[0]

    @property
    def columns(self) -> int:
        return self.integers.shape[1] * 8 // self.bits

    @property
    def group_size(self) -> int | None:
        """Columns that share a scale, or None for a whole row."""
        return None if self.scale.dim() == 1 else self.columns // self.scale.shape[1]


def pack_int4(integers: Tensor) -> Tensor:
    """Integers from -8 to 7, ``[N, K]`` int8, two to a byte, ``[N, K / 2]``."""
    return (integers[:, 0::2] << 4) | (integers[:, 1::2] & 0xF)


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`: ``[N, K / 2]`` to ``[N, K]``."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)


def dequantize(weight: PackedWeight) -> Tensor:
    """The dense weight ``[N, K]`` in the dtype of its scales."""
    scale = weight.scale.view(weight.rows, -1, 1)
    grouped = weight.integers.unflatten(1, (scale.shape[1], -1))  # [N, groups, bytes of a group]
    if weight.bits == 8:
        return (grouped * scale).flatten(1)
    # Written in place, which is several times faster on a CPU than unpacking and then converting.
    dense = torch.empty(*grouped.shape, 2, dtype=scale.dtype, device=scale.device)
    torch.mul(grouped >> 4, scale, out=dense[..., 0])
    torch.mul((grouped << 4) >> 4, scale, out=dense[..., 1])
    return dense.flatten(1)
