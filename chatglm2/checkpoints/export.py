"""Prefixes and weights in the forms that other programs read: the original's scripts, and transformers with peft.

Knows three layouts: the original's prefix checkpoint, peft's prefix-tuning adapter, and ``GlmForCausalLM``, which is
ChatGLM2 under other tensor names. Imports no peft; its files are JSON and safetensors.

peft counts text positions from P, the prefix's length, where we and the original count from 0. What a text token sees
of another depends on their distance alone, but prefix keys are not rotated, so a query that is turned by P positions
more would see them otherwise. Turning the adapter's keys by P positions too gives every score back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, GlmConfig

from chatglm2.checkpoints.hub import TOKENIZER_FILES
from chatglm2.checkpoints.loading import LoadProgress, check_shards, find_shards, open_shard, read_config, read_json
from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import CheckpointError, PrefixError
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.model.prefix import TENSOR_NAMESPACE, load_prefix, load_prefix_state
from chatglm2.model.prefix_files import LONGEST_PREFIX_TOKENS
from chatglm2.model.rotary import ROPE_BASE, RotaryEmbedding, rotate

ORIGINAL_FILE = "pytorch_model.bin"
PEFT_CONFIG_FILE = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"
PEFT_TENSOR = "prompt_embeddings"
# The names of `GlmForCausalLM` for ours; query_key_value is split besides.
GLM_NAMES = {
    "transformer.embedding.word_embeddings.": "model.embed_tokens.",
    "transformer.encoder.layers.": "model.layers.",
    "transformer.encoder.final_layernorm.": "model.norm.",
    "transformer.output_layer.": "lm_head.",
    ".self_attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
FUSED_NAME = ".self_attention.query_key_value."
SPLIT_NAMES = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
LEFT_OUT = ("transformer.rotary_pos_emb.", TENSOR_NAMESPACE)
# A shard is copied when it is written: one is no larger than the original's.
SHARD_BYTES = 2 * 10**9


def export_original(checkpoint: Path, base: Path, directory: Path, *, quantization_bit: int = 0) -> None:
    """Write a prefix into ``directory`` as the original's scripts save and load it (``--ptuning_checkpoint``).

    Args:
        checkpoint: a prefix in any of the forms that `read_prefix_state` reads.
        base: the directory with the base model's ``config.json``.
        directory: exists, and takes ``pytorch_model.bin`` and ``config.json``.
        quantization_bit: what the base was quantized to in training, which the original notes in ``config.json``.
    """
    config = read_config(base)
    state = read_prefix_state(checkpoint, config)
    # Tensors of their own, not views: torch.save would write all that a view is cut from.
    tensors = {TENSOR_NAMESPACE + name: tensor.detach().cpu().float().clone() for name, tensor in state.items()}
    torch.save(tensors, directory / ORIGINAL_FILE)
    content = read_json(base / "config.json") | {
        "pre_seq_len": state["embedding.weight"].shape[0],
        "prefix_projection": "trans.0.weight" in state,
        "quantization_bit": quantization_bit,
    }
    _write_json(directory / "config.json", content)


def export_peft(checkpoint: Path, base: Path, directory: Path, *, base_model: str | None = None) -> None:
    """Write a prefix into ``directory`` as a peft adapter for the model that `export_glm` makes of the base.

    A prefix that was trained through the projection is written as the key/values that come out of it.

    Args:
        checkpoint: a prefix of ours or of the original.
        base: the directory with the base model's ``config.json``.
        directory: exists, and takes ``adapter_config.json`` and ``adapter_model.safetensors``.
        base_model: the directory or hub id of the Glm model, noted for ``AutoPeftModel``.
    """
    config = read_config(base)
    prefix = load_prefix(checkpoint, config)
    turned = _turn_keys(prefix.key_values, config, prefix.length)
    flat = turned.permute(2, 0, 1, 3, 4).flatten(1)  # [P, layers * 2 * G * D]
    save_file({PEFT_TENSOR: flat.contiguous()}, directory / PEFT_FILE, metadata={"format": "pt"})
    content = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_virtual_tokens": prefix.length,
        "num_layers": config.num_layers,
        "num_attention_heads": config.multi_query_group_num,
        "token_dim": config.multi_query_group_num * config.kv_channels,
        "encoder_hidden_size": config.multi_query_group_num * config.kv_channels,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    _write_json(directory / PEFT_CONFIG_FILE, content)


def read_prefix_state(checkpoint: Path, config: ChatGLMConfig) -> dict[str, Tensor]:
    """The `PrefixEncoder`'s state dict of a checkpoint of ours, of the original's or of peft.

    Raises:
        PrefixError: if there is none, it is damaged, or does not fit ``config``.
    """
    if (checkpoint / PEFT_CONFIG_FILE).is_file():
        return {"embedding.weight": _read_peft(checkpoint, config)}
    load_prefix(checkpoint, config)  # refuses numbers that are not finite
    return load_prefix_state(checkpoint, config)


def _read_peft(directory: Path, config: ChatGLMConfig) -> Tensor:
    """The embedding ``[P, width]`` of a peft adapter, its keys turned back."""
    method = read_json(directory / PEFT_CONFIG_FILE).get("peft_type")
    if method != "PREFIX_TUNING":
        raise PrefixError(
            f"{directory} is an adapter of another method: expected peft_type PREFIX_TUNING, found {method}. "
            "Only prefixes can be exported.",
            f"{directory} 是其他方法的适配器：peft_type 应为 PREFIX_TUNING，实际为 {method}。只能导出前缀。",
        )
    file = directory / PEFT_FILE
    try:
        flat = load_file(file)[PEFT_TENSOR].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise PrefixError(
            f"{file} is missing, damaged or without {PEFT_TENSOR} ({type(error).__name__}). Copy the adapter again.",
            f"{file} 不存在、已损坏，或缺少 {PEFT_TENSOR}（{type(error).__name__}）。请重新复制该适配器。",
        ) from error
    width = config.prefix_width
    if flat.dim() != 2 or flat.shape[1] != width or not 0 < flat.shape[0] <= LONGEST_PREFIX_TOKENS:
        shape = " × ".join(map(str, flat.shape))
        raise PrefixError(
            f"The adapter in {directory} does not fit this model: expected {width} values a prefix token, found a "
            f"tensor of {shape}. Name the base model that it was trained on with --base-model.",
            f"{directory} 里的适配器与当前模型不匹配：每个前缀 token 应有 {width} 个数值，实际张量为 {shape}。"
            "请用 --base-model 指定训练它的基座模型。",
        )
    length, groups, channels = flat.shape[0], config.multi_query_group_num, config.kv_channels
    key_values = flat.view(length, config.num_layers, 2, groups, channels).permute(1, 2, 0, 3, 4)
    return _turn_keys(key_values, config, -length).permute(2, 0, 1, 3, 4).reshape(length, width)


def _turn_keys(key_values: Tensor, config: ChatGLMConfig, positions: int) -> Tensor:
    """``[layers, 2, P, G, D]`` with every key rotated by as many positions."""
    frequencies = RotaryEmbedding(config).frequencies(torch.float64, torch.device("cpu"))
    angles = frequencies * (positions / config.rope_ratio)
    keys = rotate(key_values[:, 0], torch.polar(torch.ones_like(angles), angles))
    return torch.stack((keys, key_values[:, 1]), dim=1)


def export_glm(
    source: Path,
    directory: Path,
    progress: Callable[[LoadProgress], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a ChatGLM2 checkpoint into ``directory`` as one that transformers' ``GlmForCausalLM`` loads.

    The source's files are mapped, and no more than one shard of ``shard_bytes`` is copied at a time. The tokenizer's
    files are copied.

    Raises:
        CheckpointError: if files are missing or damaged, or ``GlmForCausalLM`` has no place for what they hold. Nothing
            has been written then.
    """
    config = read_config(source)
    _check_glm_can(config, source)
    shards = find_shards(source)
    with torch.device("meta"):
        check_shards(shards, ChatGLMForConditionalGeneration(config), source)
    ours = (named for shard in shards for named in open_shard(shard))
    _write_shards(
        dict(part for name, tensor in ours for part in _glm_parts(name, tensor, config)),
        directory,
        progress,
        shard_bytes,
    )
    glm = glm_config(config)
    glm.save_pretrained(directory)
    GenerationConfig(eos_token_id=glm.eos_token_id, pad_token_id=glm.pad_token_id).save_pretrained(directory)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)


def _write_shards(
    tensors: dict[str, Tensor],
    directory: Path,
    progress: Callable[[LoadProgress], None] | None,
    shard_bytes: int,
) -> None:
    """Write ``tensors`` as transformers does: one file, or shards and their index."""
    # Without storage: parts of one fused tensor share theirs, and would be kept together and counted as one.
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes
    )
    written = 0
    for file, names in plan.filename_to_tensors.items():
        shard = {name: tensors[name] for name in names}
        save_file(shard, directory / file, metadata={"format": "pt"})
        written += sum(tensor.nbytes for tensor in shard.values())
        if progress is not None:
            progress(LoadProgress(written, plan.metadata["total_size"]))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(directory / "model.safetensors.index.json", index)


def glm_config(config: ChatGLMConfig) -> GlmConfig:
    """The configuration under which ``GlmForCausalLM`` computes what ChatGLM2 does."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": ROPE_BASE, "partial_rotary_factor": 0.5}
    if config.rope_ratio != 1.0:
        rope |= {"rope_type": "linear", "factor": config.rope_ratio}
    return GlmConfig(
        architectures=["GlmForCausalLM"],
        dtype=config.dtype,
        vocab_size=config.padded_vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.multi_query_group_num,
        head_dim=config.kv_channels,
        max_position_embeddings=config.seq_length,
        rms_norm_eps=config.layernorm_epsilon,
        rope_parameters=rope,
        attention_bias=config.add_qkv_bias,
        tie_word_embeddings=False,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        bos_token_id=config.bos_token_id,
    )


def _check_glm_can(config: ChatGLMConfig, source: Path) -> None:
    if config.quantization_bit:
        raise CheckpointError(
            f"{source} is quantized to {config.quantization_bit} bits; GlmForCausalLM needs the original weights. "
            "Export the unquantized checkpoint.",
            f"{source} 已量化为 {config.quantization_bit} 位；GlmForCausalLM 需要原始权重。请导出未量化的检查点。",
        )
    if config.add_bias_linear:
        raise CheckpointError(
            f"{source} has add_bias_linear true in config.json; GlmForCausalLM has no place for these biases, so this "
            "model cannot be exported. ChatGLM2-6B has none.",
            f"{source} 的 config.json 里 add_bias_linear 为 true；GlmForCausalLM 不支持这些偏置，因此无法导出该模型。"
            "ChatGLM2-6B 没有这些偏置。",
        )


def _glm_parts(name: str, tensor: Tensor, config: ChatGLMConfig) -> Iterator[tuple[str, Tensor]]:
    """What one of our tensors is called there, or is split into."""
    if name.startswith(LEFT_OUT):
        return
    fused = FUSED_NAME in name
    for ours, theirs in GLM_NAMES.items():
        name = name.replace(ours, theirs)
    if not fused:
        yield name, tensor.contiguous()
        return
    shared = config.multi_query_group_num * config.kv_channels
    parts = tensor.split((config.num_attention_heads * config.kv_channels, shared, shared))
    for theirs, part in zip(SPLIT_NAMES, parts, strict=True):
        yield name.replace(FUSED_NAME, theirs), part.contiguous()


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
