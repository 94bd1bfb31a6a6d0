"""Computing a frozen layer again in the backward pass, instead of keeping what lies inside it.

What `torch.utils.checkpoint` does for any layer, it does with a hook for every kept tensor, and the host becomes slower
than the GPU. A frozen layer needs less: no weight asks for a gradient, nothing in it is random, and what comes after
its widest tensor, the gate and the last projection, need not be computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What a layer is computed from: its input, rotation, mask, prefix and wanted tokens.
LayerArguments = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
# From those to the residual, and to what the gate gets.
LayerPart = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def recompute(
    part: LayerPart,
    gate: Callable[[Tensor], Tensor],
    gate_gradient: Callable[[Tensor, Tensor], Tensor],
    arguments: LayerArguments,
) -> tuple[Tensor, Tensor]:
    """The residual of ``part(*arguments)`` and ``gate`` of its other result; only the arguments are kept.

    ``gate_gradient`` takes what the gate gets and the gradient of what it gives, and may overwrite the first.
    """
    found: tuple[Tensor, Tensor] = _Recomputed.apply(part, gate, gate_gradient, *arguments)
    return found


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        part: LayerPart,
        gate: Callable[[Tensor], Tensor],
        gate_gradient: Callable[[Tensor, Tensor], Tensor],
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        prefix: Tensor | None,
        wanted: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.part, ctx.gate_gradient = part, gate_gradient
        ctx.save_for_backward(hidden, rotation, mask, prefix, wanted)
        residual, mixed = part(hidden, rotation, mask, prefix, wanted)
        return residual, gate(mixed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, rotation, mask, prefix, wanted = ctx.saved_tensors
        hidden_learns, prefix_learns = ctx.needs_input_grad[3], ctx.needs_input_grad[6]
        hidden = hidden.detach().requires_grad_(hidden_learns)
        prefix = prefix.detach().requires_grad_(prefix_learns) if prefix is not None else None
        with torch.enable_grad():
            residual, mixed = ctx.part(hidden, rotation, mask, prefix, wanted)
        mixed_gradient = ctx.gate_gradient(mixed.detach(), gradients[1])
        inputs = [tensor for tensor in (hidden, prefix) if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad((residual, mixed), inputs, (gradients[0], mixed_gradient)))
        hidden_gradient = next(found) if hidden_learns else None
        return None, None, None, hidden_gradient, None, None, next(found) if prefix_learns else None, None
