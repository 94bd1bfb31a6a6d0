"""What to say when a reply cannot be computed, or the engine has ended. Knows errors and words; mends nothing."""

from __future__ import annotations

import logging

import torch

from chatglm2.errors import ChatGLMError, EngineError
from chatglm2.memory.estimate import out_of_memory

logger = logging.getLogger(__name__)


def explain(error: BaseException, device: torch.device) -> ChatGLMError:
    """Why a step could not be computed. Never fails itself, whatever state the device is in."""
    if isinstance(error, ChatGLMError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        try:
            return out_of_memory(error, device)
        except Exception:  # a broken device does not even say what is free on it
            logger.exception("%s does not answer", device)
    else:
        logger.error("Computing a reply failed", exc_info=error)
    found = f"{type(error).__name__}: {_first_line(error)}"
    return EngineError(
        f"Computing the reply failed: {found}. Ask again; if it happens again, please report this.",
        f"计算回复时出错：{found}。请再问一次；如果仍然出错，请反馈此问题。",
    )


def engine_broken(reason: ChatGLMError) -> EngineError:
    """The engine can compute nothing any more."""
    return EngineError(
        f"The engine has stopped, since it cannot compute any more. {reason.en} A new engine has to be started.",
        f"推理引擎无法继续计算，已停止。{reason.zh} 需要重新启动引擎。",
    )


def engine_closed() -> EngineError:
    """The engine was closed by whoever started it."""
    return EngineError("The engine is closed. Start it again.", "推理引擎已关闭，请重新启动。")


def broken_numbers() -> EngineError:
    """The logits are not numbers."""
    return EngineError(
        "The model's output is not a number (NaN or infinity). The weights or this prefix are damaged, or the dtype is "
        "too narrow; try another checkpoint, or --dtype bfloat16.",
        "模型输出不是有效数字（NaN 或无穷大）。权重或该前缀可能已损坏，或精度不足；"
        "请换一个检查点，或使用 --dtype bfloat16。",
    )


def _first_line(error: BaseException) -> str:
    """A driver's error goes on with advice for programmers."""
    return (str(error).strip().splitlines() or [""])[0][:300].rstrip(".。")
