"""Attention over grouped keys, and the masks that it needs.

Knows shapes; knows no modules and no cache.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of ``[B, N, S, D]`` queries over ``[B, G, K, D]`` keys and values.

    Query head h reads group h // (N / G). ``mask`` is boolean, ``[B or 1, 1, S, K]``, true where a query may look, or
    what the logits get, in the queries' dtype; without one, the queries are the last S positions and each sees all
    before it. Without a mask a GPU runs flash attention on the grouped keys as they are.
    """
    batch, heads, length, channels = query.shape
    groups = key.shape[1]
    share = heads // groups
    if length == 1:
        # The heads of a group stand in for the sequence: nothing is repeated, the keys are read once.
        folded = query.view(batch, groups, share, channels)
        return F.scaled_dot_product_attention(folded, key, value, attn_mask=mask).reshape(batch, heads, 1, channels)
    if mask is None and query.is_cuda:
        causal = causal_lower_right(length, key.shape[2])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=causal, enable_gqa=share > 1)
    if mask is None:
        mask = _causal_mask(length, key.shape[2], query.device)[None, None]
    if mask.is_floating_point() and query.is_cuda:  # as wide as a number each, so it is not repeated a head
        spread = query.reshape(batch * groups, share, length, channels)
        key, value = (part.flatten(0, 1)[:, None].expand(-1, share, -1, -1) for part in (key, value))
        bias = mask if len(mask) == 1 else mask.repeat_interleave(groups, dim=0)
        return F.scaled_dot_product_attention(spread, key, value, attn_mask=bias).reshape(query.shape)
    # Here too the heads of a group stand behind one another: the keys are neither repeated nor their gradients summed.
    folded = query.unflatten(1, (groups, share)).flatten(2, 3)
    mask = mask.repeat(1, 1, share, 1)
    if query.requires_grad and query.dtype == torch.bfloat16 and not query.is_cuda:
        # A CPU's attention takes its gradient three times faster in fp32 (measured).
        mask = mask.float() if mask.is_floating_point() else mask
        context = F.scaled_dot_product_attention(folded.float(), key.float(), value.float(), attn_mask=mask)
        context = context.to(query.dtype)
    else:
        context = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask)
    return context.unflatten(2, (share, length)).flatten(1, 2)


def _causal_mask(length: int, total: int, device: torch.device) -> Tensor:
    """Boolean ``[length, total]``: the last ``length`` positions, each seeing all before it."""
    return torch.ones(length, total, dtype=torch.bool, device=device).tril(total - length)


def add_bias(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """A boolean mask ``[B or 1, 1, S, K]``, or none, and what logits get ``[B or 1, 1, S or 1, K]``, or nothing."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask + bias


def count_positions(mask: Tensor | None, batch: int, length: int, past: int, device: torch.device) -> Tensor:
    """Positions ``[B, S]`` of the new tokens, counting text only; padding sits at 0."""
    if mask is None or mask.dim() != 2:
        return torch.arange(past, past + length, device=device).expand(batch, -1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def build_attention_mask(
    text_mask: Tensor | None,
    length: int,
    past: int,
    prefix_length: int,
    prefix_mask: Tensor | None,
    device: torch.device,
) -> Tensor | None:
    """Boolean ``[B or 1, 1, S, P + K]``, true where a query may look; None where each sees all before it.

    Where the prefix of a row has a strength, what the logits get instead of a boolean.

    A padding query would see nothing and give NaN: it is opened to everything, and nobody reads its answer.

    Args:
        text_mask: ``[B, K]``, 1 for text; a ready ``[B, 1, S, P + K]`` mask is passed on.
        length: new tokens, S.
        past: cached tokens, K - S.
        prefix_length: P.
        prefix_mask: ``[B, P]``, true where a row may look, or what its logits get; all of it, as it is, if None.
    """
    if prefix_mask is not None and prefix_mask.is_floating_point():
        acting = prefix_mask > -math.inf
        seen = build_attention_mask(text_mask, length, past, prefix_length, acting, device)
        bias = prefix_mask.masked_fill(~acting, 0)[:, None, None]  # [B, 1, 1, P]
        return add_bias(seen, F.pad(bias, (0, past + length)))
    if text_mask is not None and text_mask.dim() == 4:
        return text_mask
    if text_mask is not None and bool(text_mask.all()):
        text_mask = None
    if text_mask is None and prefix_mask is None:
        # A CPU's attention needs the mask itself, so that every layer may use the same one.
        on_gpu, is_square = device.type == "cuda", past + prefix_length == 0
        needs_none = on_gpu or is_square or length == 1
        return None if needs_none else _causal_mask(length, prefix_length + past + length, device)[None, None]
    seen = _causal_mask(length, past + length, device)[None]  # [1, S, K]
    if text_mask is not None:
        seen = seen & text_mask[:, None].bool()
    if prefix_length:
        batch = seen.shape[0] if prefix_mask is None else prefix_mask.shape[0]
        if prefix_mask is None:
            prefix_mask = torch.ones(1, prefix_length, dtype=torch.bool, device=device)
        in_front = prefix_mask[:, None].expand(batch, length, -1)
        seen = torch.cat((in_front, seen.expand(batch, -1, -1)), dim=-1)
    return (seen | ~seen.any(-1, keepdim=True)).unsqueeze(1)
