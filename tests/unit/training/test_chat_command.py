"""Chatting in a terminal: the original's words, a prefix beside the base, and mistakes that get a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from training.cli import chat


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefix(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = chatglm2.load_model(checkpoint, device="cpu")
    encoder = model.prepare_prefix_tuning(3)
    directory = tmp_path_factory.mktemp("runs") / "checkpoint-2"
    directory.mkdir()
    chatglm2.save_prefix(encoder.state_dict(), directory)
    return directory


def talk(monkeypatch: pytest.MonkeyPatch, *typed: str, **environment: str) -> None:
    """Let somebody type, and then end the input."""
    lines: Iterator[Any] = iter(typed)

    def type_next(_: str) -> str:
        try:
            return str(next(lines))
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_next)
    for name, value in {"LC_ALL": "C", **environment}.items():
        monkeypatch.setenv(name, value)


def run(checkpoint: Path, *flags: str) -> int:
    return chat.main(["--model", str(checkpoint), "--device", "cpu", "--max-length", "60", "--seed", "1", *flags])


def test_it_answers_and_remembers_until_it_is_told_to_forget(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, "你好", "history", "clear", "history", "stop", "never read")
    assert run(checkpoint) == 0
    said = capsys.readouterr().out
    assert said.count("\nYou: 你好\nbase: ") == 1, "shown once by history, and forgotten by clear"
    assert "never read" not in said


def test_base_and_prefix_answer_one_after_the_other(
    checkpoint: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, "你好", LC_ALL="zh_CN.UTF-8")
    assert run(checkpoint, "--prefix", str(prefix), "--compare", "--temperature", "0") == 0
    base, tuned = capsys.readouterr().out.split("基座模型：")[1].split("checkpoint-2：")
    assert base.strip() and tuned.strip() and base.strip() != tuned.strip()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--compare"], "--compare needs a prefix"),
        (["--quantization-bit", "3"], "Argument --quantization_bit: invalid choice"),
        (["--ptuning-checkpoint", "{prefix}", "--pre-seq-len", "9"], "the checkpoint's prefix has 3 tokens"),
        (["--prefix", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_gets_a_sentence(
    checkpoint: Path,
    prefix: Path,
    flags: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    talk(monkeypatch, "你好")
    assert run(checkpoint, *(flag.replace("{prefix}", str(prefix)) for flag in flags)) == 2
    assert sentence in capsys.readouterr().err
