"""From logits to tokens: repetition penalty, temperature, top-k, top-p, and a draw. Pure functions.

The order and the meaning of each step are transformers' (temperature, then top-k, then top-p over what is left). The
draw is an inverse-CDF lookup with one uniform number a row, so a row's token depends on its own logits and number only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm2.sampling import SamplingParams


class SamplingBatch:
    """The parameters of a batch's rows as tensors, built once for as long as the rows stay the same.

    Args:
        rows: one `SamplingParams` a row.
        device: where the logits are.
    """

    def __init__(self, rows: Sequence[SamplingParams], device: torch.device) -> None:
        self.all_greedy = all(row.is_greedy for row in rows)
        self.any_greedy = any(row.is_greedy for row in rows)
        self.any_penalty = any(row.repetition_penalty != 1.0 for row in rows)
        self.cuts_top_k = all(row.top_k > 0 or row.is_greedy for row in rows)
        self.widest_top_k = max((row.top_k for row in rows), default=0)
        self.same_top_k = all(row.top_k == self.widest_top_k for row in rows)
        self.greedy = torch.tensor([row.is_greedy for row in rows], device=device)
        self.temperature = _column([row.temperature or 1.0 for row in rows], device)
        self.top_p = _column([row.top_p for row in rows], device)
        self.top_k = torch.tensor([[row.top_k or 2**31 - 1] for row in rows], device=device)
        self.penalty = _column([row.repetition_penalty for row in rows], device)


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(-1)


def choose_tokens(
    logits: Tensor, batch: SamplingBatch, uniforms: Tensor, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next token of each row.

    Args:
        logits: ``[n, vocabulary]``.
        batch: the rows' parameters.
        uniforms: ``[n]`` in [0, 1), one draw a row.
        seen: boolean ``[n, vocabulary]``, the tokens that a repetition penalty bears on.

    Returns:
        ``[n]`` token ids, and ``[n]`` booleans: false where the logits are broken (NaN or infinite), and the token with
        them.
    """
    logits = logits.float()
    if batch.any_penalty and seen is not None:
        logits = penalize(logits, seen, batch.penalty)
    highest, best = logits.max(-1)  # NaN where any logit is
    healthy = highest.isfinite()
    if batch.all_greedy:
        return best, healthy
    scaled = logits / batch.temperature
    if batch.cuts_top_k:
        scores, order = scaled.topk(min(batch.widest_top_k, logits.shape[-1]), dim=-1)
    else:
        scores, order = scaled.sort(dim=-1, descending=True)
    if not batch.same_top_k:
        rank = torch.arange(scores.shape[-1], device=logits.device)
        scores = scores.masked_fill(rank >= batch.top_k, -torch.inf)
    probabilities = scores.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # Candidates are the most likely tokens, so they are the first ones: only their number is needed.
    is_candidate = (cumulative - probabilities < batch.top_p) & (probabilities > 0)
    last = (is_candidate.sum(-1, keepdim=True) - 1).clamp(min=0)  # broken logits leave none, and still need an index
    threshold = uniforms.unsqueeze(-1) * cumulative.gather(-1, last)
    position = (cumulative <= threshold).sum(-1, keepdim=True)
    drawn = order.gather(-1, torch.minimum(position, last)).squeeze(-1)
    return torch.where(batch.greedy, best, drawn) if batch.any_greedy else drawn, healthy


def penalize(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of ``seen`` tokens by ``penalty`` (Keskar et al. 2019, CTRL)."""
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)
