"""The base model that settings name, on the device that they ask for. Knows nothing of what is to learn in it."""

from __future__ import annotations

import logging

import torch

from chatglm2 import ChatGLMForConditionalGeneration, load_model
from chatglm2.errors import RunError
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)


def require_device(settings: TrainingSettings) -> None:
    """Check that there is what ``--device`` asks for.

    Raises:
        RunError: if there is not.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RunError(
            "--device cuda needs a CUDA GPU; torch sees none here. Use --device auto or cpu.",
            "--device cuda 需要 CUDA 显卡，当前未检测到。请使用 --device auto 或 cpu。",
        )


def load_base(
    settings: TrainingSettings, device: torch.device | None = None, *, shared: bool = True
) -> ChatGLMForConditionalGeneration:
    """The model that ``settings`` name, as they ask for it; on ``device``, where a process has one of its own.

    ``shared``: its weights are those that other processes use, too, and stay as they are.
    """
    dtype = None if settings.dtype == "auto" else settings.dtype
    logger.info("Loading %s", settings.model_name_or_path)
    return load_model(
        settings.model_name_or_path,
        dtype=dtype,
        quantization_bit=settings.quantization_bit,
        device=device or (None if settings.device == "auto" else settings.device),
        hub=settings.hub,
        shared=shared,
        rope_precision=settings.rope_precision,
    )
