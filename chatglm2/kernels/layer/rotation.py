"""Rotated queries and keys, and keys and values in their places, as one Triton kernel. Knows shapes and gradients.

The places are a slot's columns (decoding, prompts), or those behind a prefix (training). Shapes: n tokens, B rows, S
tokens of a row, N query heads, G groups, D channels, P prefix tokens, T columns of a slot, R rotated channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatglm2.kernels.launching import launch_options, let_next_start, on_device_of, wait_for_previous


@triton.jit
def _turn(value, partner, angle, channel, ROTATED: tl.constexpr, DIRECTION: tl.constexpr):
    """Channel pairs (2i, 2i + 1) turned by the angle of pair i; channels from ROTATED on do not turn."""
    turns = channel < ROTATED
    cosine = tl.load(angle + (channel // 2) * 2, mask=turns, other=1.0)
    sine = tl.load(angle + (channel // 2) * 2 + 1, mask=turns, other=0.0) * DIRECTION
    sign = tl.where(channel % 2 == 0, -1.0, 1.0)
    return (value.to(tl.float32) * cosine + sign * partner.to(tl.float32) * sine).to(value.dtype)


@triton.jit
def _rotate_kernel(
    mixed,
    rotation,
    query,
    keys,
    values,
    positions,
    columns,
    slots,
    length,
    first_column,
    row_stride,
    column_stride,
    IN_SLOTS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROTATED: tl.constexpr,
    BACKWARD: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One head of one token, from ``mixed`` to its place; backward, from the gradient there to that of ``mixed``.

    Keys and values have rows of columns, so many numbers apart. A token lies where ``slots`` and ``columns`` say, or in
    the ``length`` columns of its row from ``first_column`` on.
    """
    let_next_start(OVERLAPS)
    wait_for_previous(OVERLAPS)
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    if IN_SLOTS:
        row, column = tl.load(slots + token).to(tl.int64), tl.load(columns + token).to(tl.int64)
        position = tl.load(positions + token).to(tl.int64)
    else:
        row, column = token // length, first_column + token % length
        position = token
    place = row * row_stride + column * column_stride
    here = mixed + (token * (HEADS + 2 * GROUPS) + head) * CHANNELS
    if head < HEADS:
        there = query + (token * HEADS + head) * CHANNELS
    elif head < HEADS + GROUPS:
        there = keys + place + (head - HEADS) * CHANNELS
    else:
        there = values + place + (head - HEADS - GROUPS) * CHANNELS
    source, target = (there, here) if BACKWARD else (here, there)
    value = tl.load(source + channel)
    if head < HEADS + GROUPS:
        partner = tl.load(source + (channel ^ 1))
        value = _turn(value, partner, rotation + position * ROTATED, channel, ROTATED, -1.0 if BACKWARD else 1.0)
    tl.store(target + channel, value)


class Places(NamedTuple):
    """Where the tokens of a batch lie in the cache.

    Attributes:
        positions: ``[n]`` text positions.
        columns: ``[n]`` of the slot.
        slots: ``[n]``.
    """

    positions: Tensor
    columns: Tensor
    slots: Tensor


def _launch(
    mixed: Tensor,
    rotation: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    length: int = 1,
    places: Places | None = None,
    backward: bool = False,
) -> None:
    """Launch for ``mixed`` of contiguous ``[…, (N + 2G) * D]`` and keys and values ``[rows, columns, G, D]``.

    Their groups lie behind one another, columns and rows at any distance.
    """
    heads, channels = query.shape[-2:]
    groups = keys.shape[2]
    with on_device_of(mixed):
        _rotate_kernel[(query.numel() // (heads * channels), heads + 2 * groups)](
            mixed,
            rotation,
            query,
            keys,
            values,
            *(places or (mixed, mixed, mixed)),  # not read without places
            length,
            keys.shape[1] - length,
            keys.stride(0),
            keys.stride(1),
            IN_SLOTS=places is not None,
            HEADS=heads,
            GROUPS=groups,
            CHANNELS=channels,
            ROTATED=rotation.shape[-1],
            BACKWARD=backward,
            num_warps=1,
            **launch_options(),
        )


def rotate_and_store(mixed: Tensor, rotation: Tensor, places: Places, keys: Tensor, values: Tensor) -> Tensor:
    """Rotate queries and keys, put keys and values into the cache, return the queries ``[n, N, D]``.

    Args:
        mixed: ``[n, (N + 2G) * D]``, what the fused projection gives.
        rotation: ``[T, R]`` fp32: the cosine and sine of each pair's angle, by position.
        places: of the tokens.
        keys: ``[slots, T, G, D]`` of one layer.
        values: likewise.
    """
    groups, channels = keys.shape[2:]
    query = mixed.new_empty(mixed.shape[0], mixed.shape[1] // channels - 2 * groups, channels)
    _launch(mixed, rotation, query, keys, values, places=places)
    return query


class _RotateAndJoin(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, rotation: Tensor, prefix: Tensor | None, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, heads, channels = mixed.shape
        ctx.groups, ctx.shape = groups, mixed.shape
        ctx.prefix_length = prefix_length = 0 if prefix is None else prefix.shape[3]
        query = mixed.new_empty(batch, length, heads - 2 * groups, channels)
        keys, values = mixed.new_empty(2, batch, prefix_length + length, groups, channels)
        if prefix is not None:
            for target, part in zip((keys, values), prefix, strict=True):
                target[:, :prefix_length] = part.transpose(1, 2)
        _launch(mixed, rotation, query, keys, values, length=length)
        ctx.save_for_backward(rotation)
        return query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        (rotation,) = ctx.saved_tensors
        query, keys, values = (gradient.transpose(1, 2).contiguous() for gradient in gradients)
        mixed = query.new_empty(ctx.shape)
        _launch(mixed, rotation, query, keys, values, length=ctx.shape[1], backward=True)
        prefix = None
        if ctx.prefix_length:
            prefix = torch.stack([part[:, : ctx.prefix_length].transpose(1, 2) for part in (keys, values)])
        return mixed, None, prefix, None


def rotate_and_join(
    mixed: Tensor, rotation: Tensor, prefix: Tensor | None, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``[B, N, S, D]``, and keys and values ``[B, G, P + S, D]`` with the prefix in front.

    Args:
        mixed: contiguous ``[B, S, N + 2G, D]``, what the fused projection gives.
        rotation: unit complex numbers ``[B or 1, S, 1, R / 2]``.
        prefix: ``[2, B, G, P, D]`` keys and values, not rotated, or None.
        groups: G.
    """
    batch, length = mixed.shape[:2]
    angles = torch.view_as_real(rotation).flatten(2).expand(batch, length, -1)  # [B, S, R]: cosine, sine, cosine, …
    joined: tuple[Tensor, Tensor, Tensor] = _RotateAndJoin.apply(mixed, angles.contiguous(), prefix, groups)
    return joined
