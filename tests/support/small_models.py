"""Small random models and prefixes that tests build in memory."""

from __future__ import annotations

from typing import Any

import torch

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration, Prefix

SHAPE: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 48,
    "ffn_hidden_size": 80,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "multi_query_group_num": 2,
    "padded_vocab_size": 128,
    "seq_length": 256,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def build_model(seed: int = 0, **changes: Any) -> ChatGLMForConditionalGeneration:
    """A model whose weights are large enough for its answers to differ from token to token."""
    torch.manual_seed(seed)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**(SHAPE | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config.eos_token_id = model.config.eos_token_id
    return model


def build_prefix(length: int, seed: int = 1, **changes: Any) -> Prefix:
    """A prefix for `build_model`'s shape."""
    shape = SHAPE | changes
    size = (shape["num_layers"], 2, length, shape["multi_query_group_num"], shape["kv_channels"])
    return Prefix(torch.randn(size, generator=torch.Generator().manual_seed(seed)), origin=f"random {length}")
