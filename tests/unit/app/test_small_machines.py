"""A laptop without a GPU, and a Mac: what they lack is said on the page, and nothing fails for it."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from app.machine import missing_gpu
from app.text.words import WORDS
from app.training.preview_process import limit_memory
from chatglm2 import Engine


@pytest.mark.parametrize(
    ("device", "system", "has_gpu", "word"),
    [
        ("cpu", "linux", False, "no_gpu"),
        ("cpu", "darwin", False, "no_apple_gpu"),
        ("cpu", "linux", True, None),
        ("cuda:0", "linux", True, None),
    ],
)
def test_a_missing_gpu_is_said_where_the_device_is(
    device: str, system: str, has_gpu: bool, word: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert missing_gpu(device) == word
    assert word is None or word in WORDS


def test_a_system_that_refuses_limits_of_memory_lets_files_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    limit_memory(2**30)


def test_a_system_without_memory_files_or_peers_loads_a_copy_of_its_own_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.delattr(socket, "SO_PEERCRED")
    caplog.set_level(logging.INFO)
    model = chatglm2.load_model(write_tiny_checkpoint(tmp_path), device="cpu", shared=True)
    assert "each loads its own copy" in caplog.text
    engine = Engine(model, slots=1, max_length=60)
    engine.open_to_borrowers()
    assert engine.close()
