"""Choosing tokens: each step against transformers' own warpers, and what a seed promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatglm2.sampling import SamplingParams
from chatglm2.serving.sampler import SamplingBatch, choose_tokens, penalize

CPU = torch.device("cpu")
VOCABULARY = 60


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


def drawn_frequencies(logits: Tensor, params: SamplingParams, draws: int = 20_000) -> Tensor:
    """How often each token is drawn when the uniforms are evenly spread: the distribution, without noise."""
    uniforms = (torch.arange(draws) + 0.5) / draws
    batch = SamplingBatch([params] * draws, CPU)
    tokens, _ = choose_tokens(logits.expand(draws, -1), batch, uniforms)
    return torch.bincount(tokens, minlength=VOCABULARY) / draws


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_p=1.0, top_k=0),
        SamplingParams(temperature=0.7, top_p=0.8, top_k=50),
        SamplingParams(temperature=1.3, top_p=0.95, top_k=0),
        SamplingParams(temperature=0.8, top_p=1.0, top_k=7),
        SamplingParams(temperature=0.5, top_p=0.01, top_k=50),
    ],
    ids=str,
)
def test_distribution_equals_transformers(logits: Tensor, params: SamplingParams) -> None:
    scores = TemperatureLogitsWarper(params.temperature)(None, logits)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    torch.testing.assert_close(drawn_frequencies(logits, params), scores.softmax(-1)[0], atol=2e-4, rtol=0)


def test_repetition_penalty_equals_transformers(logits: Tensor) -> None:
    ids = torch.tensor([[3, 17, 3, 40]])
    seen = torch.zeros(1, VOCABULARY, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(1.4)(ids, logits.clone())
    torch.testing.assert_close(penalize(logits, seen, torch.tensor([[1.4]])), expected)


def test_rows_keep_their_own_parameters(logits: Tensor) -> None:
    rows = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.0, top_k=3),
        SamplingParams(temperature=1.0, top_p=1.0, top_k=0),
    ]
    uniforms = torch.tensor([0.9, 0.9, 0.9])
    together, _ = choose_tokens(logits.expand(3, -1), SamplingBatch(rows, CPU), uniforms)
    alone = [choose_tokens(logits, SamplingBatch([row], CPU), uniforms[:1])[0].item() for row in rows]
    assert together.tolist() == alone
    assert together[0] == logits.argmax()


def test_the_highest_uniform_never_draws_an_excluded_token(logits: Tensor) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.5, top_k=5)
    token, _ = choose_tokens(logits, SamplingBatch([params], CPU), torch.tensor([1.0 - 2**-24]))
    assert token.item() in logits.topk(5).indices[0].tolist()


def test_broken_logits_are_told_from_masked_ones(logits: Tensor) -> None:
    rows = logits.repeat(4, 1)
    rows[1, 7] = torch.nan
    rows[2, 7] = torch.inf
    rows[3, 7] = -torch.inf
    _, healthy = choose_tokens(rows, SamplingBatch([SamplingParams()] * 4, CPU), torch.full((4,), 0.5))
    assert healthy.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]
