"""Trainers that start at once."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest
from forked import ForkedTrainer

from training.runs import launch


@pytest.fixture
def quick_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts a trainer forks it, and starts no Python that would import for seconds first."""
    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": ForkedTrainer}))
