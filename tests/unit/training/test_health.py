"""A broken loss or gradient is found before it changes anything, at once on a CPU and a step later on a GPU."""

from __future__ import annotations

import math

import pytest
import torch

from training.loop.health import Collapse, HealthWatch

SOUND = [torch.tensor(2.0), torch.tensor(3.0)]


def gradients(device: str = "cpu", broken: float | None = None) -> list[torch.Tensor]:
    parts = [torch.ones(4, device=device), torch.ones(2, 3, device=device)]
    if broken is not None:
        parts[1][0, 1] = broken
    return parts


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0])
def test_a_broken_loss_is_found_at_once(loss: float) -> None:
    found = HealthWatch().look(7, [torch.tensor(2.0), torch.tensor(loss)], gradients())
    assert found is not None
    assert found.step == 7
    assert found.loss is not None
    assert found.loss == loss or math.isnan(loss)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_gradient_is_found_at_once(value: float) -> None:
    assert HealthWatch().look(3, SOUND, gradients(broken=value)) == Collapse(3, None)


def test_sound_steps_and_steps_without_gradients_pass() -> None:
    watch = HealthWatch()
    assert watch.look(1, SOUND, gradients()) is None
    assert watch.look(2, SOUND, []) is None
    assert watch.settle() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_a_broken_step_changes_nothing_and_is_told_a_step_later() -> None:
    watch = HealthWatch()
    losses = [loss.cuda() for loss in SOUND]
    sound, broken = gradients("cuda"), gradients("cuda", math.nan)
    assert watch.look(1, losses, sound) is None
    assert all(bool((part == 1).all()) for part in sound)
    assert watch.look(2, losses, broken) is None
    assert all(bool((part == 0).all()) for part in broken)
    assert watch.look(3, losses, sound) == Collapse(2, None)
    assert watch.look(4, [torch.zeros((), device="cuda")], sound) is None
    assert watch.settle() == Collapse(4, 0.0)
    assert watch.settle() is None
