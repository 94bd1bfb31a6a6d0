"""What lies between a layer's projections when whole prompts are computed and trained: rotation and SwiGLU, fused.

Each is one Triton kernel forward and one backward, where plain operations read and write the activations several times
over and keep more of them. Knows shapes and gradients; knows no modules.

Shapes: B rows, S tokens, N query heads, G groups, D channels, P prefix tokens, R rotated channels, F gated channels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GATE_BLOCK = 1024


@triton.jit
def _gate_kernel(mixed, gated, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(mixed + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(mixed + row * 2 * width + width + column, mask=inside, other=0.0)
    tl.store(gated + row * width + column, (gate * tl.sigmoid(gate)).to(up.dtype) * up, mask=inside)


@triton.jit
def _gate_gradient_kernel(mixed, gradient, mixed_gradient, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(mixed + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(mixed + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    outer = tl.load(gradient + row * width + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    dtype = mixed_gradient.dtype.element_ty
    gate_gradient = outer * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(mixed_gradient + row * 2 * width + column, gate_gradient.to(dtype), mask=inside)
    tl.store(mixed_gradient + row * 2 * width + width + column, (outer * gate * sigmoid).to(dtype), mask=inside)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor) -> Tensor:
        width = mixed.shape[-1] // 2
        gated = torch.empty(*mixed.shape[:-1], width, dtype=mixed.dtype, device=mixed.device)
        with torch.cuda.device(mixed.device):
            _gate_kernel[(gated.numel() // width, triton.cdiv(width, GATE_BLOCK))](
                mixed, gated, width, BLOCK=GATE_BLOCK, num_warps=4
            )
        ctx.save_for_backward(mixed)
        return gated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (mixed,) = ctx.saved_tensors
        return _gate_gradient(mixed, gradients[0], torch.empty_like(mixed))


def _gate_gradient(mixed: Tensor, gradient: Tensor, mixed_gradient: Tensor) -> Tensor:
    gradient = gradient.contiguous()
    width = gradient.shape[-1]
    with torch.cuda.device(mixed.device):
        _gate_gradient_kernel[(gradient.numel() // width, triton.cdiv(width, GATE_BLOCK))](
            mixed, gradient, mixed_gradient, width, BLOCK=GATE_BLOCK, num_warps=4
        )
    return mixed_gradient


def gate(mixed: Tensor) -> Tensor:
    """SwiGLU's middle, ``silu(first half) * second half`` of contiguous ``[…, 2F]``; keeps only its input."""
    gated: Tensor = _Gate.apply(mixed)
    return gated


def gate_gradient_(mixed: Tensor, gradient: Tensor) -> Tensor:
    """The gradient for `gate`'s ``mixed``, written over it: each program reads its columns before it writes them."""
    return _gate_gradient(mixed, gradient, mixed)


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
    length,
    prefix_length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROTATED: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """One head of one token, from ``mixed`` to its place; backward, from the gradient there to that of ``mixed``."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    here = mixed + (token * (HEADS + 2 * GROUPS) + head) * CHANNELS
    row = token // length
    place = row * (prefix_length + length) + prefix_length + token % length
    if head < HEADS:
        there = query + (token * HEADS + head) * CHANNELS
    elif head < HEADS + GROUPS:
        there = keys + (place * GROUPS + head - HEADS) * CHANNELS
    else:
        there = values + (place * GROUPS + head - HEADS - GROUPS) * CHANNELS
    source, target = (there, here) if BACKWARD else (here, there)
    value = tl.load(source + channel)
    if head < HEADS + GROUPS:
        partner = tl.load(source + (channel ^ 1))
        value = _turn(value, partner, rotation + token * ROTATED, channel, ROTATED, -1.0 if BACKWARD else 1.0)
    tl.store(target + channel, value)


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
        _launch(mixed, rotation, query, keys, values, prefix_length, backward=False)
        ctx.save_for_backward(rotation)
        return query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        (rotation,) = ctx.saved_tensors
        query, keys, values = (gradient.transpose(1, 2).contiguous() for gradient in gradients)
        mixed = query.new_empty(ctx.shape)
        _launch(mixed, rotation, query, keys, values, ctx.prefix_length, backward=True)
        prefix = None
        if ctx.prefix_length:
            prefix = torch.stack([part[:, : ctx.prefix_length].transpose(1, 2) for part in (keys, values)])
        return mixed, None, prefix, None


def _launch(
    mixed: Tensor, rotation: Tensor, query: Tensor, keys: Tensor, values: Tensor, prefix_length: int, *, backward: bool
) -> None:
    batch, length, heads, channels = mixed.shape
    groups = keys.shape[2]
    with torch.cuda.device(mixed.device):
        _rotate_kernel[(batch * length, heads)](
            mixed,
            rotation,
            query,
            keys,
            values,
            length,
            prefix_length,
            HEADS=heads - 2 * groups,
            GROUPS=groups,
            CHANNELS=channels,
            ROTATED=rotation.shape[-1],
            BACKWARD=backward,
            num_warps=1,
        )


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
