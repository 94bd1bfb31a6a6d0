"""The loss of a few rows at a time equals the loss of all at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from chatglm2.model import head_loss


@pytest.mark.parametrize("rows", [1, 5, 12, 13])
@pytest.mark.parametrize("head_learns", [False, True])
def test_loss_and_gradients_do_not_depend_on_the_rows_at_once(
    rows: int, head_learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "ROWS_AT_ONCE", 5)
    torch.manual_seed(rows)
    head = nn.Linear(8, 40, bias=False).requires_grad_(head_learns)
    hidden = torch.randn(rows, 8, requires_grad=True)
    targets = torch.randint(0, 40, (rows,))
    inputs = [hidden, head.weight] if head_learns else [hidden]
    found = head_loss.cross_entropy(hidden, head, targets)
    expected = F.cross_entropy(head(hidden), targets)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_measuring_takes_no_gradient() -> None:
    head = nn.Linear(8, 40, bias=False).requires_grad_(False)
    loss = head_loss.cross_entropy(torch.randn(3, 8), head, torch.tensor([1, 2, 3]))
    assert not loss.requires_grad


@pytest.mark.parametrize("head_learns", [False, True])
def test_weighted_rows_count_as_much_as_their_weights_say(head_learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "ROWS_AT_ONCE", 3)
    torch.manual_seed(0)
    head = nn.Linear(8, 40, bias=False).requires_grad_(head_learns)
    hidden, weights = torch.randn(7, 8, requires_grad=True), torch.rand(7)
    targets = torch.randint(0, 40, (7,))
    found = head_loss.cross_entropy(hidden, head, targets, weights)
    expected = (F.cross_entropy(head(hidden), targets, reduction="none") * weights).sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, hidden), torch.autograd.grad(expected, hidden))
