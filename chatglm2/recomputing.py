"""Computing a frozen layer again in the backward pass, instead of keeping what lies inside it.

What `torch.utils.checkpoint` does for any layer, it does with a hook for every kept tensor, and the host becomes slower
than the GPU. A frozen layer needs less: no weight asks for a gradient, nothing in it is random, and its last projection
keeps nothing and so need not be computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# From a layer's input, rotation, mask and prefix to what its last projection adds up: the residual, and its own input.
LayerPart = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def recompute(
    part: LayerPart, hidden: Tensor, rotation: Tensor, mask: Tensor | None, prefix: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``part(hidden, rotation, mask, prefix)``, of which only the arguments are kept for the backward pass."""
    found: tuple[Tensor, Tensor] = _Recomputed.apply(part, hidden, rotation, mask, prefix)
    return found


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, part: LayerPart, hidden: Tensor, rotation: Tensor, mask: Tensor | None, prefix: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.part = part
        ctx.save_for_backward(hidden, rotation, mask, prefix)
        return part(hidden, rotation, mask, prefix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None, None, Tensor | None]:
        hidden, rotation, mask, prefix = ctx.saved_tensors
        _, hidden_learns, _, _, prefix_learns = ctx.needs_input_grad
        hidden = hidden.detach().requires_grad_(hidden_learns)
        prefix = prefix.detach().requires_grad_(prefix_learns) if prefix is not None else None
        with torch.enable_grad():
            results = ctx.part(hidden, rotation, mask, prefix)
        inputs = [tensor for tensor in (hidden, prefix) if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad(results, inputs, gradients))
        return None, next(found) if hidden_learns else None, None, None, next(found) if prefix_learns else None
