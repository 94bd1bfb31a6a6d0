"""A ChatGLM2 checkpoint of random weights with a tokenizer of its own, made at once: tests need no reference for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration
from training.settings.train import TrainingSettings

PIECES = 420
CONFIG = {
    "model_type": "chatglm",
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "padded_vocab_size": 448,
    "seq_length": 256,
    "torch_dtype": "float32",
}


def write_tiny_checkpoint(directory: Path, seed: int = 0, **changes: Any) -> Path:
    """Write config, weights and tokenizer into ``directory``; ``changes`` are of the config."""
    config = CONFIG | changes
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _train_tokenizer(directory)
    torch.manual_seed(seed)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig.from_dict(config))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_examples(file: Path, count: int = 24) -> Path:
    """Write examples of unlike lengths as JSON lines."""
    colours, garments = "红白黑蓝绿", ("上衣", "裤", "裙", "外套")
    with file.open("w", encoding="utf-8") as output:
        for index in range(count):
            colour, garment = colours[index % len(colours)], garments[index % len(garments)]
            row = {
                "content": f"类型#{garment}*颜色#{colour}色",
                "summary": f"这件{colour}色{garment}很百搭。" * (1 + index % 3),
            }
            output.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file


def tiny_settings(directory: Path, **changes: Any) -> TrainingSettings:
    """Settings of a short training of a model and examples that are written into ``directory``.

    The prefix starts at random and is kept to nothing, unless ``changes`` say so: what is tested is mostly elsewhere.
    """
    common: dict[str, Any] = {
        "model_name_or_path": str(write_tiny_checkpoint(directory / "model")),
        "train_file": str(write_examples(directory / "rows.json")),
        "pre_seq_len": 3,
        "save_steps": 2,
        "prefix_init": "random",
        "keep": 0.0,
    }
    return TrainingSettings(**(common | changes))


def _train_tokenizer(directory: Path) -> None:
    text = "类型#上衣*颜色#红色 这件白色外套很百搭，黑色裤，蓝绿裙。[Round 1] 问：你好 答：你好 hello world 0123456789"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 4),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=PIECES,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (directory / "tokenizer.vocab").unlink()
