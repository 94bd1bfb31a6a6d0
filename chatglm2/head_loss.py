"""The training loss behind a frozen output head, some rows at a time.

A vocabulary of 65,024 makes logits the largest tensors of a training step. Here those of a few rows exist at once. The
gradient for the hidden states is taken while they are there, which costs what the backward pass would have cost, and
the backward pass only scales it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

# Rows whose logits exist at once: 256 take 160 MiB with their gradient, and fill a GPU.
ROWS_AT_ONCE = 256


def mean_cross_entropy(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in fp32, of ``head(hidden)`` for hidden states ``[n, H]`` and target ids ``[n]``.

    Where the head learns, all logits are kept for its gradient.
    """
    if head.weight.requires_grad or head.bias is not None or len(targets) == 0:
        return F.cross_entropy(head(hidden).float(), targets)
    loss: Tensor = _FrozenHeadLoss.apply(hidden, head.weight, targets)
    return loss


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            expected = targets[rows].unsqueeze(1)
            log_shares = F.linear(hidden[rows], weight).float().log_softmax(-1)
            total -= log_shares.gather(1, expected).sum()
            if gradient is not None:  # of cross-entropy: softmax minus the one-hot target
                shares = log_shares.exp_().scatter_add_(1, expected, log_shares.new_full(expected.shape, -1.0))
                torch.mm(shares.to(weight.dtype), weight, out=gradient[rows])
        ctx.count = len(targets)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (gradients[0] / ctx.count).to(gradient.dtype), None, None
