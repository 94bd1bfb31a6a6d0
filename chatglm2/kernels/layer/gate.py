"""SwiGLU between a layer's projections, as one Triton kernel forward and one backward. Knows shapes and gradients.

Plain operations read and write the activations several times over and keep more of them. Shapes: F gated channels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatglm2.kernels.launching import launch_options, let_next_start, on_device_of, wait_for_previous

BLOCK = 1024


@triton.jit
def _gate_kernel(mixed, gated, width, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr):
    let_next_start(OVERLAPS)
    wait_for_previous(OVERLAPS)
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
        ctx.save_for_backward(mixed)
        return apply_gate(mixed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (mixed,) = ctx.saved_tensors
        return _gate_gradient(mixed, gradients[0], torch.empty_like(mixed))


def _gate_gradient(mixed: Tensor, gradient: Tensor, mixed_gradient: Tensor) -> Tensor:
    gradient = gradient.contiguous()
    width = gradient.shape[-1]
    with on_device_of(mixed):
        _gate_gradient_kernel[(gradient.numel() // width, triton.cdiv(width, BLOCK))](
            mixed, gradient, mixed_gradient, width, BLOCK=BLOCK, num_warps=4
        )
    return mixed_gradient


def apply_gate(mixed: Tensor) -> Tensor:
    """SwiGLU's middle, ``silu(first half) * second half`` of contiguous ``[…, 2F]``, where nothing learns."""
    width = mixed.shape[-1] // 2
    gated = torch.empty(*mixed.shape[:-1], width, dtype=mixed.dtype, device=mixed.device)
    with on_device_of(mixed):
        _gate_kernel[(gated.numel() // width, triton.cdiv(width, BLOCK))](
            mixed, gated, width, BLOCK=BLOCK, num_warps=4, **launch_options()
        )
    return gated


def gate(mixed: Tensor) -> Tensor:
    """`apply_gate`, with a gradient; keeps only its input."""
    gated: Tensor = _Gate.apply(mixed)
    return gated


def gate_gradient_(mixed: Tensor, gradient: Tensor) -> Tensor:
    """The gradient for `gate`'s ``mixed``, written over it: each program reads its columns before it writes them."""
    return _gate_gradient(mixed, gradient, mixed)
