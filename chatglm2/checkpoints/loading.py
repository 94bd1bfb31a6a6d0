"""From a directory or hub id to a model and a tokenizer, one shard at a time.

Knows file layouts and checks all of them before it loads any. Runs no code from a checkpoint: ``config.json`` is read
as data, ``.bin`` files with ``weights_only=True``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from chatglm2.checkpoints.hub import TOKENIZER_FILES, DownloadProgress, Hub, resolve_model_directory
from chatglm2.checkpoints.shape import check_shape
from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import CheckpointError, QuantizationError
from chatglm2.files import read_regular
from chatglm2.kernels.availability import computing_on
from chatglm2.memory.estimate import require_memory_for_weights
from chatglm2.memory.sharing import Layout, WeightsKey, share_weights, why_not
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.model.prefix import TENSOR_NAMESPACE
from chatglm2.model.quantization import QuantizedLinear, record_quantization, replace_linears
from chatglm2.model.tensor_files import READING_ERRORS, ImplausibleFileError, open_tensors
from chatglm2.text.tokenizer import TOKENIZER_FILE, ChatGLMTokenizer

logger = logging.getLogger(__name__)

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LARGEST_JSON_BYTES = 64 * 2**20
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
    quantization_bit: int | None = None,
    quantization_group_size: int | None = None,
    device: torch.device | str | None = None,
    hub: Hub = "huggingface",
    progress: ProgressCallback | None = None,
    shared: bool = False,
    rope_precision: str | None = None,
) -> ChatGLMForConditionalGeneration:
    """A ChatGLM2 model from a directory or hub id, in evaluation mode.

    Args:
        path: a directory in the original's layout, or a hub id such as ``THUDM/chatglm2-6b``.
        dtype: of the weights; if not given, the checkpoint's on a GPU, and on a CPU fp32 where it fits well, else bf16.
            With quantization, of everything but the packed weights; bf16 on a CPU, where the fast kernels want it.
        quantization_bit: 4 or 8 quantizes the layers while they are read; a quantized checkpoint needs nothing here.
        quantization_group_size: 64 or 128 gives each group of columns a scale of its own, which is more accurate.
        device: where to put it; if not given, a CUDA device if there is one.
        hub: where a hub id is looked for, ``"huggingface"`` or ``"modelscope"``.
        progress: called while files are downloaded and weights are loaded.
        shared: use one copy of the weights with the user's other processes that ask for it: map what one of them has
            loaded, or load and offer it. Such weights cannot be changed. Where that is impossible a copy of its own is
            loaded, and the log says why.
        rope_precision: ``"reference"`` computes rotary angles in the weights' dtype, as the original does; if not given
            what the checkpoint says, or ``"fp32"``.

    Raises:
        CheckpointError: if files are missing, damaged, of another model, or do not fit. Nothing has been loaded then.
        QuantizationError: if the checkpoint is quantized otherwise than asked for, or cannot be.
        DeviceMemoryError: if the weights do not fit, before any is loaded.
    """
    directory = resolve_model_directory(path, hub=hub, progress=progress)
    config = read_config(directory)
    config.rope_precision = rope_precision or config.rope_precision
    shards = find_shards(directory)
    target = torch.device(device) if device is not None else default_device()
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    bits, group_size = _resolve_quantization(quantization_bit, quantization_group_size, config, directory)
    check_shards(shards, model, directory)
    if bits and not config.quantization_bit:
        replace_linears(model, bits, group_size)
    resolved = _resolve_dtype(dtype, config, target, model, bits)

    def check() -> None:
        require_memory_for_weights(config, resolved, bits, target)

    if shared and (reason := why_not(target)) is not None:
        logger.info(reason[0])
        shared = False
    if shared:
        key = WeightsKey(tuple(shards), resolved, bits, group_size, target)
        with computing_on(target):
            _attach_shared(model, key, lambda tensors: _fill(model, shards, resolved, target, progress, tensors), check)
    else:
        check()
        with computing_on(target):
            _fill(model, shards, resolved, target, progress)
    _fill_computed(model, resolved, target)
    record_quantization(model, bits, group_size)
    model.config.dtype = resolved
    model.config._name_or_path = str(path)
    return model.eval()


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def read_config(directory: Path) -> ChatGLMConfig:
    """``config.json``, checked to be a ChatGLM2's."""
    file = directory / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{directory} has no config.json. Point at the directory that holds config.json and the weights.",
            f"{directory} 里没有 config.json。请指向同时包含 config.json 和权重文件的目录。",
        )
    content = read_json(file)
    if content.get("model_type") != "chatglm" or "multi_query_group_num" not in content:
        found = content.get("model_type")
        kind = "ChatGLM-6B, the first generation" if found == "chatglm" else f"model_type {found!r}"
        raise CheckpointError(
            f"{directory} is not a ChatGLM2 model: expected model_type 'chatglm' with multi_query_group_num in "
            f"config.json, found {kind}. Use THUDM/chatglm2-6b or a model of its kind.",
            f"{directory} 不是 ChatGLM2 模型：config.json 里应有 model_type 'chatglm' 和 multi_query_group_num，"
            f"实际是 {kind}。请使用 THUDM/chatglm2-6b 或同类模型。",
        )
    check_shape(content, file)
    try:
        return ChatGLMConfig.from_dict(content)
    except (ValueError, TypeError) as error:  # one of the keys that transformers knows
        raise CheckpointError(
            f"{file} is damaged: {error}. Copy it from the checkpoint again.",
            f"{file} 已损坏：{error}。请从检查点重新复制该文件。",
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file of a checkpoint, which is an object."""
    try:
        content = json.loads(read_regular(file, LARGEST_JSON_BYTES))
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}). Check the disk and the file's permissions.",
            f"无法读取 {file}（{error.strerror}）。请检查磁盘和该文件的权限。",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is not valid JSON ({error}). Copy it from the checkpoint again.",
            f"{file} 不是有效的 JSON（{error}）。请重新复制该文件。",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds no settings: expected a JSON object, found {type(content).__name__}. Copy it from the "
            "checkpoint again.",
            f"{file} 里没有设置：应为 JSON 对象，实际为 {type(content).__name__}。请从检查点重新复制该文件。",
        )
    return content


def _resolve_quantization(
    asked_bits: int | None, asked_group: int | None, config: ChatGLMConfig, directory: Path
) -> tuple[int, int | None]:
    """Bits (0 for none) and group size of the model to make, from what is asked for and what the checkpoint holds."""
    stored_bits = config.quantization_bit
    stored_group = config.quantization_group_size
    if not stored_bits:
        return asked_bits or 0, asked_group
    if asked_bits in (None, stored_bits) and asked_group in (None, stored_group):
        return stored_bits, stored_group
    raise QuantizationError(
        f"{directory} is quantized to {stored_bits} bits (group size {stored_group}); {asked_bits} bits (group size "
        f"{asked_group}) need the original weights. Leave quantization_bit out, or load the unquantized checkpoint.",
        f"{directory} 已量化为 {stored_bits} 位（组大小 {stored_group}）；"
        f"要得到 {asked_bits} 位（组大小 {asked_group}）需要原始权重。请去掉 quantization_bit，或加载未量化的检查点。",
    )


def find_shards(directory: Path) -> list[Path]:
    """The weight files, in order; safetensors before ``.bin``."""
    for index_name, single_name in zip(INDEX_FILES, SINGLE_FILES, strict=True):
        index = directory / index_name
        if index.is_file():
            names = sorted(set(_weight_map(index).values()))
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


def _weight_map(index: Path) -> dict[str, str]:
    """The file of every tensor, as an index has it."""
    found = read_json(index).get("weight_map")
    weight_map: dict[str, str] = found if isinstance(found, dict) else {}
    names = weight_map.values()
    # A file beside the index: a path would lead out of the checkpoint.
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise CheckpointError(
            f"{index} names no weight files: expected a weight_map of file names in it. Copy it from the checkpoint "
            "again.",
            f"{index} 没有列出权重文件：其中应有由文件名组成的 weight_map。请重新复制该文件。",
        )
    return weight_map


def open_shard(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a shard, mapped from disk and read only when used."""
    try:
        yield from open_tensors(shard)
    except ImplausibleFileError as error:
        raise CheckpointError(
            f"The weight file {shard} is refused: {error.en}. Download it again from where it was published.",
            f"拒绝读取权重文件 {shard}：{error.zh}。请从发布处重新下载。",
        ) from error
    except PermissionError as error:
        raise CheckpointError(
            f"You may not read the weight file {shard}. Change its permissions, or choose another checkpoint.",
            f"没有权限读取权重文件 {shard}。请修改其权限，或换一个检查点。",
        ) from error
    except READING_ERRORS as error:
        size = shard.stat().st_size
        raise CheckpointError(
            f"The weight file {shard} ({size:,} bytes) is truncated or damaged. Download this file again; "
            "the others need not be.",
            f"权重文件 {shard}（{size:,} 字节）不完整或已损坏。只需重新下载这一个文件。",
        ) from error


def check_shards(shards: list[Path], model: ChatGLMForConditionalGeneration, directory: Path) -> None:
    """Open every shard and compare names and shapes with the model's, before anything is loaded."""
    state = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        for name, tensor in open_shard(shard):
            found[name] = tuple(tensor.shape)
            if name in state and tensor.is_floating_point() != state[name].is_floating_point():
                raise _quantization_mismatch(shard, name, tensor, model.config)
            if name in expected and expected[name] != found[name]:
                raise CheckpointError(
                    f"{shard}: {name} has shape {list(found[name])}, config.json asks for {list(expected[name])}. "
                    "Weights and config.json are of different models; take both from the same checkpoint.",
                    f"{shard}：{name} 的形状是 {list(found[name])}，而 config.json 要求 {list(expected[name])}。"
                    "权重与 config.json 不属于同一个模型，请使用同一检查点的文件。",
                )
    missing = sorted(name for name in expected.keys() - found.keys() if not _may_be_missing(name))
    if missing:
        raise _missing_tensors(missing, len(expected), directory)
    unknown = sorted(name for name in found.keys() - expected.keys() if TENSOR_NAMESPACE not in name)
    if unknown:
        logger.warning("%s holds %d tensors that ChatGLM2 does not have (%s …)", directory, len(unknown), unknown[0])


def _missing_tensors(missing: list[str], total: int, directory: Path) -> CheckpointError:
    """The error for tensors that no file holds; the files that should hold them, where an index says so."""
    shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
    index = next((directory / name for name in INDEX_FILES if (directory / name).is_file()), None)
    weight_map = _weight_map(index) if index is not None else {}
    files = ", ".join(sorted({weight_map[name] for name in missing if name in weight_map}))
    return CheckpointError(
        f"{directory} lacks {len(missing)} of the model's {total} tensors ({shown}). "
        + (f"They should be in {files}: download that again." if files else "Use a complete checkpoint."),
        f"{directory} 缺少模型 {total} 个张量中的 {len(missing)} 个（{shown}）。"
        + (f"它们应在 {files} 中：请重新下载该文件。" if files else "请使用完整的检查点。"),
    )


def _quantization_mismatch(shard: Path, name: str, tensor: Tensor, config: ChatGLMConfig) -> CheckpointError:
    kind = str(tensor.dtype).removeprefix("torch.")
    expected = f"quantization_bit {config.quantization_bit}" if config.quantization_bit else "no quantization_bit"
    return CheckpointError(
        f"{shard}: {name} is {kind}, but config.json has {expected}. Weights and config.json are of different "
        "checkpoints; take both from the same one.",
        f"{shard}：{name} 的类型是 {kind}，但 config.json 里的 quantization_bit 是 {config.quantization_bit}。"
        "权重与 config.json 不属于同一个检查点，请使用同一检查点的文件。",
    )


def _may_be_missing(name: str) -> bool:
    return name == "transformer.rotary_pos_emb.inv_freq" or name.startswith(TENSOR_NAMESPACE)


def _resolve_dtype(
    dtype: torch.dtype | str | None,
    config: ChatGLMConfig,
    device: torch.device,
    model: torch.nn.Module,
    bits: int,
) -> torch.dtype:
    if isinstance(dtype, str):
        names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
        dtype = getattr(torch, names.get(dtype, dtype))
    if isinstance(dtype, torch.dtype):
        return dtype
    if device.type != "cpu":
        stored = config.dtype
        return stored if isinstance(stored, torch.dtype) and stored != torch.float32 else torch.float16
    if bits:
        return torch.bfloat16
    fp32_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    fits = fp32_bytes < FP32_MEMORY_SHARE * psutil.virtual_memory().available
    return torch.float32 if fits else torch.bfloat16


def _fill(
    model: ChatGLMForConditionalGeneration,
    shards: list[Path],
    dtype: torch.dtype,
    device: torch.device,
    progress: ProgressCallback | None,
    into: Mapping[str, Tensor] | None = None,
) -> None:
    """Read every weight into the model, or into the tensors given."""
    total = sum(shard.stat().st_size for shard in shards)
    loaded = 0
    for shard in shards:
        _read_ahead(shard)
        for name, tensor in open_shard(shard):
            _assign(model, name, tensor, dtype, device, into)
            loaded += tensor.numel() * tensor.element_size()
            if progress is not None:
                progress(LoadProgress(min(loaded, total), total))


def _fill_computed(model: ChatGLMForConditionalGeneration, dtype: torch.dtype, device: torch.device) -> None:
    """What a checkpoint may lack: angles, and a prefix that starts afresh."""
    rotary = model.transformer.rotary_pos_emb
    if rotary.inv_freq.is_meta:
        rotary.inv_freq = rotary.frequencies(torch.float32, device).to(dtype)
    encoder = model.transformer.prefix_encoder
    if encoder is not None and encoder.embedding.weight.is_meta:
        encoder.to_empty(device=device)
        encoder.reset_parameters()


def _read_ahead(shard: Path) -> None:
    """Tell the system that all of it will be read: a mapped file comes in small pieces otherwise."""
    if hasattr(os, "posix_fadvise"):  # Linux
        descriptor = os.open(shard, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _attach_shared(
    model: ChatGLMForConditionalGeneration,
    key: WeightsKey,
    fill: Callable[[dict[str, Tensor]], None],
    check: Callable[[], None],
) -> None:
    """Give the model weights that other processes have, too; they are offered for as long as the model lives."""
    state = model.state_dict()
    kept = {
        name: (tuple(tensor.shape), key.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
        if not _may_be_missing(name)
    }
    weights = share_weights(key, Layout(kept), fill, check)
    for name, tensor in weights.tensors.items():
        _place(model, name, tensor)
    model.shared_weights = weights
    logger.info("The weights %s.", "come from another process" if weights.mapped else "are offered to other processes")


def _assign(
    model: ChatGLMForConditionalGeneration,
    name: str,
    tensor: Tensor,
    dtype: torch.dtype,
    device: torch.device,
    into: Mapping[str, Tensor] | None,
) -> None:
    """Put one tensor in its place; names that the model does not have were reported by the check."""
    owner_name, _, leaf = name.rpartition(".")
    try:
        owner: Any = model.get_submodule(owner_name)
    except AttributeError:
        return
    if isinstance(owner, QuantizedLinear) and leaf == "weight" and tensor.is_floating_point():
        owner.quantize_from(tensor, dtype, device)
        if into is not None:
            into[f"{owner_name}.weight"].copy_(owner.weight)
            into[f"{owner_name}.weight_scale"].copy_(owner.weight_scale)
            owner._buffers["weight"] = owner._buffers["weight_scale"] = None  # it is given the shared ones
        return
    if into is not None and name in into:
        into[name].copy_(tensor)
        return
    kept = torch.float32 if name.startswith(TENSOR_NAMESPACE) else dtype
    if not tensor.is_floating_point():
        kept = tensor.dtype
    # copy=True: a tensor left mapped would break when its file is replaced.
    _place(model, name, tensor.to(device=device, dtype=kept, copy=True))


def _place(model: ChatGLMForConditionalGeneration, name: str, value: Tensor) -> None:
    """Make ``value`` the parameter or buffer ``name``."""
    owner_name, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(owner_name)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=owner._parameters[leaf].requires_grad)
    elif leaf in owner._buffers:
        owner._buffers[leaf] = value
