"""Rotary position embedding as ChatGLM2 has it: half of a head's channels, in interleaved pairs.

Knows positions and angles; does not know where queries and keys come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chatglm2.configuration import ChatGLMConfig

ROPE_BASE = 10000.0


class RotaryEmbedding(nn.Module):
    """Rotary angles for the first half of a head's channels, in interleaved pairs.

    ``inv_freq`` is in the checkpoint; like the original we never read its values. Its dtype matters to
    ``rope_precision="reference"``, which rounds as the original does in that dtype.
    """

    inv_freq: Tensor

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.rotary_channels = config.kv_channels // 2
        self.precision = config.rope_precision
        self.ratio = config.rope_ratio
        self.register_buffer("inv_freq", self.frequencies(torch.float32, torch.device("cpu")))

    @property
    def dtype(self) -> torch.dtype:
        """In which angles are computed, and rounded."""
        return self.inv_freq.dtype if self.precision == "reference" else torch.float32

    def frequencies(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Radians a position, of each pair, ``[rotary_channels / 2]``; rounded in ``dtype`` as the original does."""
        exponents = torch.arange(0, self.rotary_channels, 2, dtype=torch.float32, device=device) / self.rotary_channels
        return 1.0 / (ROPE_BASE ** exponents.to(dtype))

    def forward(self, position_ids: Tensor) -> Tensor:
        """Unit complex numbers ``[B, S, 1, rotary_channels / 2]`` (complex64) for ``position_ids`` ``[B, S]``."""
        dtype = self.dtype
        positions = position_ids.to(dtype) / self.ratio if self.ratio != 1.0 else position_ids.to(dtype)
        angles = (positions.unsqueeze(-1) * self.frequencies(dtype, position_ids.device)).float()
        rotation = torch.polar(torch.ones_like(angles), angles)
        if dtype != torch.float32:  # the original stores cosine and sine in half precision
            rotation = torch.view_as_complex(torch.view_as_real(rotation).to(dtype).float())
        return rotation.unsqueeze(2)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate channel pairs (2i, 2i+1) of the first half of ``x`` ``[B, S, heads, D]`` by ``rotation``."""
    rotary_channels = rotation.shape[-1] * 2
    turning, passing = x[..., :rotary_channels], x[..., rotary_channels:]
    pairs = torch.view_as_complex(turning.float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * rotation).flatten(-2)
    return torch.cat((turned.to(x.dtype), passing), dim=-1)
