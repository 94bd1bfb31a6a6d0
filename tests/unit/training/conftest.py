"""Trainers that start at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from forked import ForkedTrainer

from training.runs import launch


@pytest.fixture
def quick_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts a trainer forks it, and starts no Python that would import for seconds first."""
    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": ForkedTrainer}))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A second thread only waits, with a model as small as a test's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
