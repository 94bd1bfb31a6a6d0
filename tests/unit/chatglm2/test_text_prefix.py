"""A prefix of a text says what the text says, also through the projection; the divergence is the textbook's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from small_models import build_model
from torch import nn

from chatglm2.errors import PrefixError
from chatglm2.model.head_loss import divergence
from chatglm2.model.text_prefix import prefix_from_ids, start_from

TEXT, QUESTION = [5, 9, 17, 33], [7, 8, 50]


@torch.no_grad()
def test_a_prefix_of_a_text_says_what_the_text_in_front_says() -> None:
    model = build_model()
    prefix = prefix_from_ids(model, TEXT)
    positions = torch.arange(-len(TEXT), len(QUESTION))[None]
    read = model(input_ids=torch.tensor([TEXT + QUESTION]), position_ids=positions).logits[:, len(TEXT) :]
    attended = model(input_ids=torch.tensor([QUESTION]), prefix=prefix).logits
    assert prefix.length == len(TEXT)
    torch.testing.assert_close(attended, read, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("projection", [False, True])
def test_a_trainable_prefix_starts_as_the_text(projection: bool) -> None:
    model = build_model()
    prefix = prefix_from_ids(model, TEXT)
    encoder = model.prepare_prefix_tuning(len(TEXT), projection)
    start_from(encoder, prefix.key_values)
    torch.testing.assert_close(encoder.key_values(), prefix.key_values, atol=1e-4, rtol=1e-4)
    assert prefix_from_ids(model, TEXT).sha256 == prefix.sha256, "a text is read without the prefix in training"


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(PrefixError, match="at least one token"):
        prefix_from_ids(build_model(), [])


def test_the_divergence_and_its_gradient_are_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, base = torch.randn(300, 16, generator=generator), torch.randn(300, 16, generator=generator)
    head, weights = nn.Linear(16, 40, bias=False).requires_grad_(False), torch.rand(300, generator=generator)
    taken = [tensor.clone().requires_grad_() for tensor in (hidden, hidden)]
    ours = divergence(taken[0], head, base, weights)
    tuned, wanted = head(taken[1]).log_softmax(-1), head(base).log_softmax(-1)
    theirs = (F.kl_div(tuned, wanted, reduction="none", log_target=True).sum(-1) * weights).sum()
    (2 * ours).backward()
    (2 * theirs).backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(taken[0].grad, taken[1].grad, atol=1e-5, rtol=1e-4)
    assert divergence(base, head, base).abs() < 1e-6
