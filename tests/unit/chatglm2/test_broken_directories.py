"""A model directory may be broken in any way: it is one sentence, in seconds, in both languages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from chatglm2.errors import ChatGLMError, CheckpointError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(directory: Path) -> None:
    chatglm2.load_tokenizer(directory)
    chatglm2.load_model(directory, device="cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", 10**6),
        ("num_layers", 0),
        ("num_layers", "2"),
        ("num_layers", None),
        ("hidden_size", -32),
        ("hidden_size", 10**18),
        ("hidden_size", 32.5),
        ("hidden_size", [32]),
        ("multi_query_group_num", 3),
        ("multi_query_group_num", 0),
        ("kv_channels", 7),
        ("padded_vocab_size", True),
        ("seq_length", -1),
        ("layernorm_epsilon", "small"),
        ("layernorm_epsilon", float("nan")),
        ("rope_ratio", 0),
        ("quantization_bit", 5),
        ("pre_seq_len", -4),
        ("rope_precision", "fp8"),
    ],
)
def test_a_number_that_no_model_has_is_named_with_its_key(directory: Path, key: str, value: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=key) as caught:
        load(directory)
    assert key in caught.value.zh


def break_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent / "nowhere")


def make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


WAYS: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(bytes(range(256)) * 40),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "a list": lambda file: file.write_text("[1, 2]"),
    "deep": lambda file: file.write_text("[" * 200_000),
    "a directory": make_directory,
    "a pipe": make_pipe,
    "a broken link": break_link,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", WEIGHTS])
def test_a_file_that_is_broken_is_named(directory: Path, name: str, way: Callable[[Path], object]) -> None:
    way(directory / name)
    with pytest.raises(ChatGLMError) as caught:
        load(directory)
    assert name in str(caught.value) and caught.value.zh != caught.value.en


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, {"a": "../elsewhere.bin"}, {"a": "/etc/passwd"}])
def test_an_index_that_names_no_files_beside_it_is_refused(directory: Path, weight_map: Any) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load(directory)


@pytest.mark.parametrize("content", [[1, 2], 7, {"a": 1}], ids=str)
def test_a_pickle_of_something_else_is_refused(directory: Path, content: Any) -> None:
    (directory / WEIGHTS).unlink()
    torch.save(content, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load(directory)
