"""The training losses behind a frozen output head, some rows at a time: cross-entropy, and divergence from the base.

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


def cross_entropy(hidden: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, in fp32, of ``head(hidden)``: the mean of all rows, or their sum weighted by ``weights``.

    Where the head learns, all logits are kept for its gradient.

    Args:
        hidden: hidden states ``[n, H]``.
        head: from hidden states to logits.
        targets: ids ``[n]``.
        weights: ``[n]``.
    """
    if weights is None:
        weights = hidden.new_full((len(targets),), 1 / max(len(targets), 1), dtype=torch.float32)
    if head.weight.requires_grad or head.bias is not None:
        return (F.cross_entropy(head(hidden).float(), targets, reduction="none") * weights).sum()
    loss: Tensor = _FrozenHeadLoss.apply(hidden, head.weight, targets, weights)
    return loss


def divergence(hidden: Tensor, head: nn.Linear, base_hidden: Tensor, weights: Tensor | None = None) -> Tensor:
    """How far what ``hidden`` says next is from what ``base_hidden`` says, in nats: KL(base ‖ tuned), in fp32.

    The mean of all rows, or their sum weighted by ``weights``.

    Args:
        hidden: hidden states ``[n, H]``.
        head: from hidden states to logits; it is frozen.
        base_hidden: the base's hidden states ``[n, H]`` at the same places.
        weights: ``[n]``.
    """
    if weights is None:
        weights = hidden.new_full((len(hidden),), 1 / max(len(hidden), 1), dtype=torch.float32)
    loss: Tensor = _FrozenHeadDivergence.apply(hidden, head.weight, base_hidden, weights)
    return loss


class _FrozenHeadDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, base_hidden: Tensor, weights: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            tuned = F.linear(hidden[rows], weight).float().log_softmax(-1)
            base = F.linear(base_hidden[rows], weight).float().log_softmax(-1)
            shares = base.exp()
            total += (shares * (base - tuned)).sum(-1) @ weights[rows]
            if gradient is not None:  # softmax of the tuned minus softmax of the base
                torch.mm((tuned.exp_() - shares).to(weight.dtype), weight, out=gradient[rows])
        if gradient is not None:
            ctx.save_for_backward(gradient, weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _scaled(ctx, gradients[0]), None, None, None


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            expected = targets[rows].unsqueeze(1)
            log_shares = F.linear(hidden[rows], weight).float().log_softmax(-1)
            total -= log_shares.gather(1, expected).squeeze(1) @ weights[rows]
            if gradient is not None:  # of cross-entropy: softmax minus the one-hot target
                shares = log_shares.exp_().scatter_add_(1, expected, log_shares.new_full(expected.shape, -1.0))
                torch.mm(shares.to(weight.dtype), weight, out=gradient[rows])
        if gradient is not None:
            ctx.save_for_backward(gradient, weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _scaled(ctx, gradients[0]), None, None, None


def _scaled(ctx: Any, outer: Tensor) -> Tensor:
    """The gradient ``[n, H]`` for the hidden states that the forward pass kept, for this gradient of the loss."""
    gradient, weights = ctx.saved_tensors
    scales = (outer * weights).to(gradient.dtype)
    scaled: Tensor = gradient * scales.unsqueeze(1)
    return scaled
