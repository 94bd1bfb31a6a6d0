"""A layer on a GPU, for the tokens of a decode step or of prompts: Triton kernels between the projections.

Knows a layer's modules and one layer of the cache; knows no graph and no batch. Shapes: n tokens, H hidden, N query
heads, G groups, D channels, T columns of a slot.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from chatglm2.kernels.layer.decoding import MOST_DENSE_ROWS, add_norm, dense_product
from chatglm2.kernels.layer.gate import apply_gate
from chatglm2.kernels.layer.rotation import Places, rotate_and_store
from chatglm2.model.modeling import GLMBlock, RMSNorm

# From a layer's queries, keys and values to the context of its tokens, ``[n, N * D]``.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def compute_layer(
    block: GLMBlock,
    x: Tensor,
    delta: Tensor | None,
    rotation: Tensor,
    places: Places,
    keys: Tensor,
    values: Tensor,
    attention: Attention,
) -> Tensor:
    """What the layer adds to ``x`` ``[n, H]``; ``delta``, what the layer before adds, is added to ``x`` in passing.

    Args:
        block: the layer.
        x: changed in place.
        delta: ``[n, H]``, or None in the first layer.
        rotation: see `rotate_and_store`.
        places: of the tokens.
        keys: ``[slots, T, G, D]``, of this layer.
        values: likewise.
        attention: of the queries over the cache.
    """
    mixed = project(block.self_attention.query_key_value, normalize(x, delta, block.input_layernorm))
    query = rotate_and_store(mixed, rotation, places, keys, values)
    delta = project(block.self_attention.dense, attention(query, keys, values))
    mixed = project(block.mlp.dense_h_to_4h, normalize(x, delta, block.post_attention_layernorm))
    return project(block.mlp.dense_4h_to_h, apply_gate(mixed))


def normalize(x: Tensor, delta: Tensor | None, norm: RMSNorm) -> Tensor:
    """Add ``delta`` to ``x`` in place, and return its norm."""
    return add_norm(x, delta, norm.weight, norm.eps)


def project(linear: nn.Module, x: Tensor) -> Tensor:
    """``linear(x)`` for ``[n, in]``; for few rows our own product reads a dense weight faster than cuBLAS."""
    if type(linear) is nn.Linear and x.shape[0] <= MOST_DENSE_ROWS:
        return dense_product(x, linear.weight, linear.bias)
    return linear(x)
