"""The demo model's shape, and its weights in the original's file layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm2.configuration import ChatGLMConfig
from chatglm2.model.modeling import ChatGLMForConditionalGeneration

SHARD_BYTES = 8 * 2**20
EMBEDDING_ROWS_MULTIPLE = 64
SHAPE = {
    "num_layers": 8,
    "hidden_size": 256,
    "ffn_hidden_size": 688,
    "num_attention_heads": 8,
    "kv_channels": 32,
    "multi_query_group_num": 2,
    "seq_length": 2048,
}
# The original's other keys, with its values.
ORIGINAL_KEYS: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "use_cache": True,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float16",
    "transformers_version": "4.27.1",
}


def build_config(vocab_size: int) -> dict[str, Any]:
    """``config.json``'s content for a vocabulary, special tokens included."""
    rows = -(-vocab_size // EMBEDDING_ROWS_MULTIPLE) * EMBEDDING_ROWS_MULTIPLE
    return {"_name_or_path": "chatglm2-demo", **ORIGINAL_KEYS, **SHAPE, "padded_vocab_size": rows}


def build_model(vocab_size: int) -> ChatGLMForConditionalGeneration:
    return ChatGLMForConditionalGeneration(ChatGLMConfig.from_dict(build_config(vocab_size)))


def export_checkpoint(model: ChatGLMForConditionalGeneration, vocab_size: int, directory: Path) -> None:
    """Write ``config.json`` and fp16 ``pytorch_model-*.bin`` shards with their index."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", build_config(vocab_size))
    shards = _split({name: tensor.detach().half().cpu() for name, tensor in model.state_dict().items()})
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        torch.save({key: tensor.contiguous().clone() for key, tensor in shard.items()}, directory / name)
        weight_map |= dict.fromkeys(shard, name)
        total += sum(tensor.nbytes for tensor in shard.values())
    _write_json(
        directory / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _split(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        used = sum(other.nbytes for other in shards[-1].values())
        if shards[-1] and used + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    return shards


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
