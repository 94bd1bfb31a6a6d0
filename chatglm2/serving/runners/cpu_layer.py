"""A layer's decode step on a CPU in fp32, as few operations as its parameters allow.

Knows one layer's parameters and the cache; knows no batch and no model. The BLAS behind torch multiplies
``weight @ x.T`` by two or more rows several times faster than ``x @ weight.T`` (`benchmarks/engine.py` measures it).

Shapes: n rows, H hidden, N query heads, G groups, D channels, K columns, R rotated channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from chatglm2.configuration import ChatGLMConfig
from chatglm2.model.modeling import GLMBlock
from chatglm2.serving.cache import SlotCache


class Surroundings(NamedTuple):
    """What all layers of one step share.

    Attributes:
        rotation: ``[rows, 1, R / 2]`` complex, of each row's position.
        mask: ``[rows, 1, 1, K]``, a boolean or what logits get, or None where all rows see the same.
        epsilon: ``[n, 1, 1]``, of the norms.
        mixed: ``[n, (N + 2G) * D]`` that every layer writes over: taking memory costs as much as using it.
        gated: ``[n, F]``, likewise.
    """

    rotation: Tensor
    mask: Tensor | None
    epsilon: Tensor
    mixed: Tensor
    gated: Tensor


class CpuLayer:
    """One layer's parameters: looked up once, since a module's attributes cost as much as a small operation."""

    def __init__(self, block: GLMBlock, index: int, config: ChatGLMConfig, cache: SlotCache) -> None:
        attention, mlp = block.self_attention, block.mlp
        self._index, self._cache = index, cache
        self._heads, self._groups = config.num_attention_heads, config.multi_query_group_num
        self._channels = config.kv_channels
        self._input_norm = block.input_layernorm.weight
        self._query_key_value = attention.query_key_value.weight
        self._bias: Tensor | None = attention.query_key_value.bias
        self._dense = attention.dense.weight
        self._post_norm = block.post_attention_layernorm.weight
        self._h_to_4h = mlp.dense_h_to_4h.weight
        self._4h_to_h = mlp.dense_4h_to_h.weight

    def add_to(self, x: Tensor, around: Surroundings) -> None:
        """Compute the layer for ``x`` ``[n, H]``, in place; the cache knows slots and columns."""
        mixed = product(self._query_key_value, normalize(x, self._input_norm, around.epsilon))
        if self._bias is None:
            around.mixed.copy_(mixed)
        else:
            torch.add(mixed, self._bias, out=around.mixed)
        x.add_(product(self._dense, self._attend(around)))
        gate, up = product(self._h_to_4h, normalize(x, self._post_norm, around.epsilon)).chunk(2, dim=-1)
        torch.mul(F.silu(gate), up, out=around.gated)
        x.add_(product(self._4h_to_h, around.gated))

    def _attend(self, around: Surroundings) -> Tensor:
        """Context ``[n, N * D]``; where one row runs as two, both look at the one row's keys."""
        rotation = around.rotation
        rows = len(rotation)
        heads = around.mixed.view(len(around.mixed), -1, self._channels)  # [n, N + 2G, D]
        turning = heads[:, : self._heads + self._groups, : 2 * rotation.shape[-1]]
        torch.view_as_complex(turning.unflatten(-1, (-1, 2))).mul_(rotation)
        new = heads[:rows, self._heads :].unflatten(1, (2, -1)).transpose(0, 1)  # [2, n, G, D]
        keys, values = self._cache.write(new, self._index)  # [n, G, K, D]
        if rows < len(heads):
            keys, values = keys.expand(2, -1, -1, -1), values.expand(2, -1, -1, -1)
        grouped = heads[:, : self._heads].unflatten(1, (self._groups, -1))
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=around.mask).flatten(1)


def normalize(x: Tensor, weight: Tensor, epsilon: Tensor) -> Tensor:
    """RMSNorm of ``[n, H]``; the mean square plus ``epsilon`` ``[n, 1, 1]`` is one product."""
    rows, width = x.shape
    squares = torch.baddbmm(epsilon, x.unsqueeze(1), x.unsqueeze(2), alpha=1 / width)
    return (x * squares.rsqrt_().view(rows, 1)).mul_(weight)


def product(weight: Tensor, x: Tensor) -> Tensor:
    """``x @ weight.T`` for the few rows of ``x`` ``[n, in]``; ``[n, out]``, a column behind another."""
    return torch.mm(weight, x.t()).t()
