"""How much memory a model and its conversations take, what is free, and what to say where that is not enough.

Knows sizes and words; moves nothing.
"""

from __future__ import annotations

import logging

import psutil
import torch

from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import DeviceMemoryError

logger = logging.getLogger(__name__)

GIB = 2**30
MOST_SLOTS = 8
# What answering takes on a GPU beside weights and conversations: part of a prompt, an unpacked weight, captured steps.
WORKING_BYTES = 512 * 2**20
# What the driver takes of a GPU for each process, with torch's kernels in it (measured on an H100: 621 MiB).
CONTEXT_BYTES = 640 * 2**20
# What an engine that answers short prompts has taken of that working space, for captured steps and products (measured
# on an H100: 871 MiB beside the weights with the context, in FP16 as in INT4).
ENGINE_BYTES = 231 * 2**20


def free_bytes(device: torch.device) -> int:
    """Memory that is free on ``device``, what torch holds in reserve included; a CPU's swap space counts."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    return psutil.virtual_memory().available + psutil.swap_memory().free


def context_bytes(device: torch.device) -> int:
    """What a process takes on a device for being there."""
    return CONTEXT_BYTES if device.type == "cuda" else 0


def engine_bytes(device: torch.device) -> int:
    """What an engine takes beside weights, conversations and its process's context."""
    return ENGINE_BYTES if device.type == "cuda" else 0


def workspace_bytes(device: torch.device) -> int:
    """What torch gives cuBLAS in each thread that multiplies (``CUBLAS_WORKSPACE_CONFIG`` is its default)."""
    if device.type != "cuda":
        return 0
    return 32 * 2**20 if torch.cuda.get_device_capability(device)[0] >= 9 else 8 * 2**20 + 2**17


def weight_bytes(config: ChatGLMConfig, item_bytes: int, bits: int = 0) -> int:
    """What the weights of a model take: the layers' projections in ``bits``, or like the rest if 0."""
    heads_width = config.num_attention_heads * config.kv_channels
    mixed_width = heads_width + 2 * config.multi_query_group_num * config.kv_channels
    attention = config.hidden_size * (mixed_width + heads_width)
    projections = config.num_layers * (attention + 3 * config.hidden_size * config.ffn_hidden_size)
    rest = 2 * config.padded_vocab_size * config.hidden_size  # norms, biases and scales are too small to count
    return rest * item_bytes + (projections * bits // 8 if bits else projections * item_bytes)


def slot_bytes(config: ChatGLMConfig, item_bytes: int, columns: int) -> int:
    """What the keys and values of one conversation of ``columns`` tokens, its prefix included, take."""
    return config.num_layers * 2 * columns * config.multi_query_group_num * config.kv_channels * item_bytes


def require_memory_for_weights(config: ChatGLMConfig, dtype: torch.dtype, bits: int, device: torch.device) -> None:
    """Check that a model fits, before it is loaded.

    Raises:
        DeviceMemoryError: with what is needed, what is free, and which precision would fit.
    """
    free = free_bytes(device)
    needed = weight_bytes(config, dtype.itemsize, bits)
    if needed <= free:
        return
    smaller = [choice for choice in (8, 4) if not bits or choice < bits]
    fitting = next((choice for choice in smaller if weight_bytes(config, 2, choice) <= free), None)
    kind = f"INT{bits}" if bits else str(dtype).removeprefix("torch.")
    if fitting:
        size = _gib(weight_bytes(config, 2, fitting))
        hint_en = f"With --quantization-bit {fitting} it needs {size} and fits."
        hint_zh = f"使用 --quantization-bit {fitting} 只需 {size}，可以放下。"
    else:
        least = _gib(weight_bytes(config, 2, 4))
        hint_en = f"Even INT4 needs {least}: close other programs, or use another device (--device)."
        hint_zh = f"即使 INT4 也需要 {least}：请关闭其他程序，或换一个设备（--device）。"
    raise DeviceMemoryError(
        f"The weights in {kind} need {_gib(needed)} on {device}, and {_gib(free)} are free. {hint_en}",
        f"{kind} 权重在 {device} 上需要 {_gib(needed)}，空闲 {_gib(free)}。{hint_zh}",
    )


def choose_slots(
    config: ChatGLMConfig,
    dtype: torch.dtype,
    device: torch.device,
    columns: int,
    wanted: int | None,
    *,
    as_used: bool = False,
) -> int:
    """How many conversations of ``columns`` tokens run together: ``wanted``, or as many as fit, 8 at most.

    Where they take memory only as they are used (``as_used``), one that fits is enough.

    Raises:
        DeviceMemoryError: where not even that fits, with what would.
    """
    fitting = fitting_slots(config, dtype, device, columns)
    if as_used and fitting:
        return wanted or MOST_SLOTS
    if fitting < (wanted or 1):
        each, free = slot_bytes(config, dtype.itemsize, columns), _free_for_slots(device)
        raise _too_many_columns(wanted or 1, each, free, columns, device)
    if wanted is not None:
        return wanted
    if fitting < MOST_SLOTS:
        logger.info("Memory is free for %d conversations of %d tokens.", fitting, columns)
    return min(fitting, MOST_SLOTS)


def fitting_slots(config: ChatGLMConfig, dtype: torch.dtype, device: torch.device, columns: int) -> int:
    """How many conversations of ``columns`` tokens fit into the memory that is free."""
    return max(_free_for_slots(device), 0) // slot_bytes(config, dtype.itemsize, columns)


def _free_for_slots(device: torch.device) -> int:
    return free_bytes(device) - (WORKING_BYTES if device.type == "cuda" else 0)


def _too_many_columns(slots: int, each: int, free: int, columns: int, device: torch.device) -> DeviceMemoryError:
    room = max(free, 0)
    possible = room * columns // each // 512 * 512  # tokens of one conversation
    if room >= each:
        hint_en, hint_zh = f"--slots {room // each} fits.", f"--slots {room // each} 可以放下。"
    elif possible:
        hint_en, hint_zh = f"--slots 1 --max-length {possible} fits.", f"--slots 1 --max-length {possible} 可以放下。"
    else:
        hint_en = "Hold the weights in fewer bits (--quantization-bit 4), or close other programs."
        hint_zh = "请用更少的位数存放权重（--quantization-bit 4），或关闭其他程序。"
    return DeviceMemoryError(
        f"{slots} conversations of {columns:,} tokens need {_gib(slots * each)} on {device} beside the weights, and "
        f"{_gib(room)} are free for them. {hint_en}",
        f"{slots} 个 {columns:,} token 的对话在 {device} 上除权重外还需要 {_gib(slots * each)}，"
        f"可用 {_gib(room)}。{hint_zh}",
    )


def no_room(prompt: int, possible: int, device: torch.device) -> DeviceMemoryError:
    """The error for a conversation of ``prompt`` tokens where there is memory for ``possible`` with its reply."""
    return DeviceMemoryError(
        f"The conversation has {prompt:,} tokens, and {device} has memory for {possible:,} with the reply now: a "
        "training or another program holds the rest. Start a new conversation, or try again when that has ended.",
        f"对话有 {prompt:,} 个 token，而 {device} 当前的内存只够 {possible:,} 个（含回复）："
        "其余正被训练或其他程序占用。"
        "请开始新对话，或等它结束后再试。",
    )


def out_of_memory(error: torch.OutOfMemoryError, device: torch.device) -> DeviceMemoryError:
    """The error for a device that ran out of memory while it answered."""
    asked = str(error).partition("Tried to allocate ")[2].partition(". ")[0]  # such as "2.00 GiB"
    asked_en, asked_zh = (
        (f"{asked} more were needed", f"还需要 {asked}") if asked else ("More was needed", "还需要更多")
    )
    free = _gib(free_bytes(device))
    return DeviceMemoryError(
        f"{device} ran out of memory while answering: {asked_en}, and {free} are free. Use fewer --slots, a shorter "
        "--max-length or --quantization-bit 4.",
        f"{device} 在回答时内存不足：{asked_zh}，空闲 {free}。"
        "请减少 --slots、缩短 --max-length，或使用 --quantization-bit 4。",
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
