"""What one pass of a step takes of a device's memory, part by part.

A pass keeps what its backward part needs, and is largest either where the loss is taken or in the backward part of the
last layer that has all tokens. Sizes are those of the tensors that are there at that moment; what torch's allocator
wastes is not in them. Knows shapes; knows no device and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatglm2 import ChatGLMConfig
from chatglm2.model.head_loss import ROWS_AT_ONCE


@dataclass(frozen=True)
class PassMemory:
    """Bytes of one pass.

    Attributes:
        activations: what the layers keep until their backward part.
        prefixes: what the prefix gives each row, with the dropout's mask.
        working: what is there for a moment at the most crowded one: logits and their gradient, or a layer's own.
    """

    activations: int = 0
    prefixes: int = 0
    working: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.prefixes + self.working


@dataclass(frozen=True)
class PassShape:
    """What a pass computes, and how.

    Attributes:
        item_bytes: of an activation.
        rows: of the pass.
        length: tokens of a row.
        labels: tokens of a row that something is learnt from.
        pre_seq_len: prefix tokens in front.
        fused: whether the layer's fused kernels run: they keep keys and values of each group, and what the gate gets.
            Plain operations keep keys and values of each head, three parts of the gate, and what the norms get in fp32.
        learns: whether the weights learn; then what goes into each projection is kept, too, and all logits.
        unpacks: whether weights are quantized, so that the one that is multiplied by lies there unpacked.
    """

    item_bytes: int
    rows: int
    length: int
    labels: int
    pre_seq_len: int = 0
    fused: bool = True
    learns: bool = False
    unpacks: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def pass_memory(config: ChatGLMConfig, shape: PassShape, *, recomputes: bool) -> PassMemory:
    """What a pass takes; ``recomputes``: a layer keeps its input alone, and is computed again."""
    prefixes = _prefix_bytes(config, shape)
    logits = _logits_bytes(config, shape)
    if recomputes:
        kept = (config.num_layers - 1) * shape.tokens * config.hidden_size * shape.item_bytes
        return PassMemory(kept, prefixes, max(_recomputing_bytes(config, shape), logits))
    kept = (config.num_layers - 1) * layer_bytes(config, shape, shape.tokens)
    last = layer_bytes(config, shape, shape.tokens if shape.learns else min(shape.rows * shape.labels, shape.tokens))
    # In the backward part, the last layer's tensors have gone when the layer before it needs room.
    return PassMemory(kept, prefixes, max(last + logits, _backward_bytes(config, shape)))


def layer_bytes(config: ChatGLMConfig, shape: PassShape, ending: int) -> int:
    """What autograd keeps of a layer whose MLP computes ``ending`` tokens; frozen projections keep no inputs."""
    item, tokens = shape.item_bytes, shape.tokens
    heads_width = config.num_attention_heads * config.kv_channels
    keys_width = config.multi_query_group_num * config.kv_channels if shape.fused else heads_width
    keys = 2 * keys_width * shape.rows * (shape.length + shape.pre_seq_len)
    # Queries and what attention gives, keys and values, its sums in fp32, and the angles that turned the queries.
    attention = item * (2 * heads_width * tokens + keys) + 4 * tokens * config.num_attention_heads
    angles = 4 * tokens * (config.kv_channels // 2)
    gating = item * (2 if shape.fused else 3) * config.ffn_hidden_size * ending
    norms = (item if shape.fused else 4) * config.hidden_size * (tokens + ending)
    inputs = item * (2 * config.hidden_size + config.ffn_hidden_size) * tokens if shape.learns else 0
    return attention + angles + gating + norms + inputs


def _prefix_bytes(config: ChatGLMConfig, shape: PassShape) -> int:
    """A prefix for each row, its mask, and the one that they are made from."""
    values = shape.pre_seq_len * config.prefix_width
    return shape.rows * values * (shape.item_bytes + 1) + values * shape.item_bytes


def _logits_bytes(config: ChatGLMConfig, shape: PassShape) -> int:
    """Logits in fp32 twice, for the labels that go through the head at once; hidden states and their gradient."""
    labels = shape.rows * shape.labels
    at_once = labels if shape.learns else min(labels, ROWS_AT_ONCE)
    return 8 * at_once * config.padded_vocab_size + 3 * labels * config.hidden_size * shape.item_bytes


def _unpacked_bytes(config: ChatGLMConfig, shape: PassShape) -> int:
    """The largest weight of a layer, unpacked."""
    return 2 * config.ffn_hidden_size * config.hidden_size * shape.item_bytes if shape.unpacks else 0


def _recomputing_bytes(config: ChatGLMConfig, shape: PassShape) -> int:
    """A layer that is computed again while the gradients of its two results wait.

    Beside keys and values those are five tensors as wide as the hidden states (gradient, queries, attention's result,
    the residual and its norm), and three parts of the gate: what it gets, and the gradient of what it gives.
    """
    if not shape.fused or shape.learns:
        return 2 * layer_bytes(config, shape, shape.tokens) + _unpacked_bytes(config, shape)
    item, groups = shape.item_bytes, config.multi_query_group_num * config.kv_channels
    keys = 2 * groups * shape.rows * (shape.length + shape.pre_seq_len)
    wide = 5 * config.hidden_size + 3 * config.ffn_hidden_size
    return item * (wide * shape.tokens + keys) + _unpacked_bytes(config, shape)


def _backward_bytes(config: ChatGLMConfig, shape: PassShape) -> int:
    """The gradients of a layer's widest part, and of the hidden states before and behind it."""
    wide = 2 * config.hidden_size + 3 * config.ffn_hidden_size
    return shape.item_bytes * wide * shape.tokens + _unpacked_bytes(config, shape)
