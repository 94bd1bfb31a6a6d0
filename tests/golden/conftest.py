"""What the original computed, as tensors and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import chatglm2


@pytest.fixture(scope="session")
def tensors(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "vectors.safetensors")


@pytest.fixture(scope="session")
def vectors(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def model(tiny_model_dir: Path) -> chatglm2.ChatGLMForConditionalGeneration:
    return chatglm2.load_model(tiny_model_dir, dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def tokenizer(tiny_model_dir: Path) -> chatglm2.ChatGLMTokenizer:
    return chatglm2.load_tokenizer(tiny_model_dir)
