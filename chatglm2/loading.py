"""From a directory or hub id to a model and a tokenizer, one shard at a time.

Knows file layouts and checks all of them before it loads any. Runs no code from a checkpoint: ``config.json`` is read
as data, ``.bin`` files with ``weights_only=True``.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import CheckpointError
from chatglm2.hub import TOKENIZER_FILES, DownloadProgress, Hub, resolve_model_directory
from chatglm2.modeling import ChatGLMForConditionalGeneration
from chatglm2.prefix import TENSOR_NAMESPACE
from chatglm2.tokenizer import TOKENIZER_FILE, ChatGLMTokenizer

logger = logging.getLogger(__name__)

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Where fp32 would take more than this share of the memory that is free, a CPU runs in bf16.
FP32_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class LoadProgress:
    """How far the weights are on their way from disk to the device."""

    loaded_bytes: int
    total_bytes: int


ProgressCallback = Callable[[DownloadProgress | LoadProgress], None]


def load_tokenizer(path: str | Path, *, hub: Hub = "huggingface") -> ChatGLMTokenizer:
    """The tokenizer of a checkpoint directory or hub id."""
    directory = resolve_model_directory(path, hub=hub, files=TOKENIZER_FILES)
    if not (directory / TOKENIZER_FILE).is_file():
        raise CheckpointError(
            f"{directory} has no {TOKENIZER_FILE}. A ChatGLM2 checkpoint has one: download it again, completely.",
            f"{directory} 里没有 {TOKENIZER_FILE}。ChatGLM2 检查点应包含它，请重新完整下载。",
        )
    return ChatGLMTokenizer(directory / TOKENIZER_FILE)


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    hub: Hub = "huggingface",
    progress: ProgressCallback | None = None,
) -> ChatGLMForConditionalGeneration:
    """A ChatGLM2 model from a directory or hub id, in evaluation mode.

    Args:
        path: a directory in the original's layout, or a hub id such as ``THUDM/chatglm2-6b``.
        dtype: of the weights; if not given, the checkpoint's on a GPU, and on a CPU fp32 where it fits well, else bf16.
        device: where to put it; if not given, a CUDA device if there is one.
        hub: where a hub id is looked for, ``"huggingface"`` or ``"modelscope"``.
        progress: called while files are downloaded and weights are loaded.

    Raises:
        CheckpointError: if files are missing, damaged, or of another model. Nothing has been loaded then.
    """
    directory = resolve_model_directory(path, hub=hub, progress=progress)
    config = read_config(directory)
    shards = _find_shards(directory)
    target = torch.device(device) if device is not None else default_device()
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    _check_shards(shards, model, directory)
    resolved = _resolve_dtype(dtype, config, target, model)
    _fill(model, shards, resolved, target, progress)
    model.config.dtype = resolved
    model.config._name_or_path = str(path)
    return model.eval()


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def read_config(directory: Path) -> ChatGLMConfig:
    """``config.json``, checked to be a ChatGLM2's."""
    file = directory / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{directory} has no config.json. Point at the directory that holds config.json and the weights.",
            f"{directory} 里没有 config.json。请指向同时包含 config.json 和权重文件的目录。",
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not valid JSON ({error}). Copy it from the checkpoint again.",
            f"{file} 不是有效的 JSON（{error}）。请重新复制该文件。",
        ) from error
    if content.get("model_type") != "chatglm" or "multi_query_group_num" not in content:
        found = content.get("model_type")
        kind = "ChatGLM-6B, the first generation" if found == "chatglm" else f"model_type {found!r}"
        raise CheckpointError(
            f"{directory} is not a ChatGLM2 model: expected model_type 'chatglm' with multi_query_group_num in "
            f"config.json, found {kind}. Use THUDM/chatglm2-6b or a model of its kind.",
            f"{directory} 不是 ChatGLM2 模型：config.json 里应有 model_type 'chatglm' 和 multi_query_group_num，"
            f"实际是 {kind}。请使用 THUDM/chatglm2-6b 或同类模型。",
        )
    return ChatGLMConfig.from_dict(content)


def _find_shards(directory: Path) -> list[Path]:
    """The weight files, in order; safetensors before ``.bin``."""
    for index_name, single_name in zip(INDEX_FILES, SINGLE_FILES, strict=True):
        index = directory / index_name
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in names if not (directory / name).is_file()]
            if missing:
                listed = ", ".join(missing)
                raise CheckpointError(
                    f"{directory} is incomplete: {index_name} names {len(names)} weight files, {len(missing)} are "
                    f"missing ({listed}). Download them again; nothing has been loaded.",
                    f"{directory} 不完整：{index_name} 列出了 {len(names)} 个权重文件，"
                    f"缺少 {len(missing)} 个（{listed}）。请重新下载；尚未加载任何内容。",
                )
            return [directory / name for name in names]
        if (directory / single_name).is_file():
            return [directory / single_name]
    expected = ", ".join((*INDEX_FILES, *SINGLE_FILES))
    raise CheckpointError(
        f"{directory} has no weights: expected one of {expected}. Download the weight files into it.",
        f"{directory} 里没有权重文件：应有 {expected} 之一。请把权重文件下载到该目录。",
    )


def _open_shard(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a shard, mapped from disk and read only when used."""
    try:
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    yield name, file.get_tensor(name)
        else:
            yield from torch.load(shard, map_location="cpu", mmap=True, weights_only=True).items()
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        size = shard.stat().st_size
        raise CheckpointError(
            f"The weight file {shard} ({size:,} bytes) is truncated or damaged. Download this file again; "
            "the others need not be.",
            f"权重文件 {shard}（{size:,} 字节）不完整或已损坏。只需重新下载这一个文件。",
        ) from error


def _check_shards(shards: list[Path], model: ChatGLMForConditionalGeneration, directory: Path) -> None:
    """Open every shard and compare names and shapes with the model's, before anything is loaded."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        for name, tensor in _open_shard(shard):
            found[name] = tuple(tensor.shape)
            if name in expected and expected[name] != found[name]:
                raise CheckpointError(
                    f"{shard}: {name} has shape {list(found[name])}, config.json asks for {list(expected[name])}. "
                    "Weights and config.json are of different models; take both from the same checkpoint.",
                    f"{shard}：{name} 的形状是 {list(found[name])}，而 config.json 要求 {list(expected[name])}。"
                    "权重与 config.json 不属于同一个模型，请使用同一检查点的文件。",
                )
    missing = sorted(name for name in expected.keys() - found.keys() if not _may_be_missing(name))
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of the model's {len(expected)} tensors ({shown}). "
            "Use a complete checkpoint.",
            f"{directory} 缺少模型 {len(expected)} 个张量中的 {len(missing)} 个（{shown}）。请使用完整的检查点。",
        )
    unknown = sorted(name for name in found.keys() - expected.keys() if TENSOR_NAMESPACE not in name)
    if unknown:
        logger.warning("%s holds %d tensors that ChatGLM2 does not have (%s …)", directory, len(unknown), unknown[0])


def _may_be_missing(name: str) -> bool:
    return name == "transformer.rotary_pos_emb.inv_freq" or name.startswith(TENSOR_NAMESPACE)


def _resolve_dtype(
    dtype: torch.dtype | str | None, config: ChatGLMConfig, device: torch.device, model: torch.nn.Module
) -> torch.dtype:
    if isinstance(dtype, str):
        names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
        dtype = getattr(torch, names.get(dtype, dtype))
    if isinstance(dtype, torch.dtype):
        return dtype
    if device.type != "cpu":
        stored = config.dtype
        return stored if isinstance(stored, torch.dtype) and stored != torch.float32 else torch.float16
    fp32_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    fits = fp32_bytes < FP32_MEMORY_SHARE * psutil.virtual_memory().available
    return torch.float32 if fits else torch.bfloat16


def _fill(
    model: ChatGLMForConditionalGeneration,
    shards: list[Path],
    dtype: torch.dtype,
    device: torch.device,
    progress: ProgressCallback | None,
) -> None:
    total = sum(shard.stat().st_size for shard in shards)
    loaded = 0
    for shard in shards:
        for name, tensor in _open_shard(shard):
            _assign(model, name, tensor, dtype, device)
            loaded += tensor.numel() * tensor.element_size()
            if progress is not None:
                progress(LoadProgress(min(loaded, total), total))
    rotary = model.transformer.rotary_pos_emb
    if rotary.inv_freq.is_meta:
        rotary.inv_freq = rotary._frequencies(torch.float32, device).to(dtype)
    encoder = model.transformer.prefix_encoder
    if encoder is not None and encoder.embedding.weight.is_meta:
        encoder.to_empty(device=device)
        encoder.reset_parameters()


def _assign(
    model: ChatGLMForConditionalGeneration, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device
) -> None:
    """Put one tensor in its place; names that the model does not have were reported by the check."""
    owner_name, _, leaf = name.rpartition(".")
    try:
        owner: Any = model.get_submodule(owner_name)
    except AttributeError:
        return
    kept = torch.float32 if name.startswith(TENSOR_NAMESPACE) else dtype
    # copy=True: a tensor left mapped would break when its file is replaced.
    value = tensor.to(device=device, dtype=kept, copy=True)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=owner._parameters[leaf].requires_grad)
    elif leaf in owner._buffers:
        owner._buffers[leaf] = value
