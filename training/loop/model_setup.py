"""The model that a run trains: loaded, with what is to learn in it.

Knows dtypes, devices and warm starts; trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import set_seed

from chatglm2 import ChatGLMForConditionalGeneration, PrefixEncoder
from chatglm2.checkpoints.hub import resolve_model_directory
from chatglm2.checkpoints.loading import default_device, read_config
from chatglm2.errors import RunError
from chatglm2.model.prefix import load_prefix_state
from chatglm2.model.text_prefix import prefix_from_ids, start_from
from training.distributed.ranks import ALONE, Ranks
from training.plan.base_model import load_base
from training.plan.memory import require_memory_for_all_weights
from training.runs.events import MessageEvent
from training.runs.store import Run
from training.settings.train import Precision, TrainingSettings


def prepare_model(
    run: Run,
    settings: TrainingSettings,
    checkpoint: Path | None,
    ranks: Ranks = ALONE,
    sentence: Callable[[], tuple[str, Sequence[int]]] | None = None,
) -> ChatGLMForConditionalGeneration:
    """The model with what is to be trained in it.

    Args:
        run: is told where a prefix starts.
        settings: of the run.
        checkpoint: the one to resume from.
        ranks: of the run.
        sentence: gives the sentence that a prefix starts from where the settings say so, and its ids.
    """
    if settings.pre_seq_len is None:
        return _prepare_all_weights(run, settings, checkpoint, ranks)
    return _prepare_prefix(run, settings, settings.pre_seq_len, checkpoint, ranks, sentence)


def _prepare_prefix(
    run: Run,
    settings: TrainingSettings,
    length: int,
    checkpoint: Path | None,
    ranks: Ranks,
    sentence: Callable[[], tuple[str, Sequence[int]]] | None,
) -> ChatGLMForConditionalGeneration:
    """A frozen model with a prefix that learns."""
    model = load_base(settings, ranks.device)
    set_seed(settings.seed)
    encoder = model.prepare_prefix_tuning(length, settings.prefix_projection)
    if settings.keep:  # noise in the prefix blurs what is to be kept exactly
        encoder.dropout.p = 0.0
    if checkpoint is None:
        if settings.warm_start:
            _warm_start(run, model, settings.warm_start, settings)
        elif settings.starts_from_text and sentence is not None:
            _start_from_text(run, model, encoder, *sentence())
    # What is frozen is the same in every process: nothing of it need ever be sent.
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    frozen += [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
    return model


def _prepare_all_weights(
    run: Run, settings: TrainingSettings, checkpoint: Path | None, ranks: Ranks
) -> ChatGLMForConditionalGeneration:
    """A model whose weights all learn; a checkpoint of such a run is a model of its own."""
    device = ranks.device or (torch.device(settings.device) if settings.device != "auto" else default_device())
    dtype = trainable_dtype(settings, device)
    if settings.dtype == "float16" != dtype:
        run.append(
            MessageEvent(
                en=f"Weights in float16 lose small updates, so they are trained in {dtype}.",
                zh=f"float16 权重会丢失微小的更新，因此以 {dtype} 训练。",
            )
        )
    directory = resolve_model_directory(checkpoint or settings.model_name_or_path, hub=settings.hub)
    resolved = getattr(torch, dtype)
    require_memory_for_all_weights(read_config(directory), settings, resolved, device, ranks.size, ranks.local_size)
    model = load_base(replace(settings, model_name_or_path=str(directory), dtype=dtype), ranks.device, shared=False)
    if model.config.quantization_bit:
        raise RunError(
            f"{directory} is quantized to {model.config.quantization_bit} bits, and quantized weights cannot learn. "
            "Use the unquantized checkpoint, or train a prefix (--pre_seq_len 128).",
            f"{directory} 已量化为 {model.config.quantization_bit} 位，量化后的权重无法训练。"
            "请使用未量化的检查点，或训练前缀（--pre_seq_len 128）。",
        )
    set_seed(settings.seed)
    return model


def trainable_dtype(settings: TrainingSettings, device: torch.device) -> Precision:
    """The dtype in which all weights are trained: bfloat16 on GPUs that have it, float32 elsewhere.

    float16 takes what DeepSpeed does for it on GPUs: copies in float32 that learn, and a scaled loss.
    """
    asked = settings.dtype
    scales_losses = bool(settings.deepspeed) and device.type == "cuda"
    if asked in ("float32", "bfloat16") or (asked == "float16" and scales_losses):
        return asked
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def _start_from_text(
    run: Run, model: ChatGLMForConditionalGeneration, encoder: PrefixEncoder, text: str, ids: Sequence[int]
) -> None:
    start_from(encoder, prefix_from_ids(model, ids).key_values)
    run.append(
        MessageEvent(
            en=f"The prefix starts from the sentence “{text}” (--prefix_text).",
            zh=f"前缀从这句话开始：“{text}”（--prefix_text）。",
        )
    )


def _warm_start(run: Run, model: ChatGLMForConditionalGeneration, path: str, settings: TrainingSettings) -> None:
    state = load_prefix_state(path, model.config)
    length, projection = state["embedding.weight"].shape[0], "trans.0.weight" in state
    if length != settings.pre_seq_len or projection != settings.prefix_projection:
        raise RunError(
            f"The prefix in {path} has {length} tokens and {'a' if projection else 'no'} projection, but the run asks "
            f"for --pre_seq_len {settings.pre_seq_len} and --prefix_projection {settings.prefix_projection}. "
            "Use the checkpoint's values, or another checkpoint.",
            f"{path} 中的前缀长度为 {length}、{'有' if projection else '无'}映射，而本次训练设置的是 "
            f"--pre_seq_len {settings.pre_seq_len}、--prefix_projection {settings.prefix_projection}。"
            "请改用检查点的值，或换一个检查点。",
        )
    encoder = model.transformer.prefix_encoder
    assert encoder is not None
    encoder.load_state_dict(state)
    run.append(
        MessageEvent(
            en=f"Warm start: the prefix comes from {path}, the optimizer starts afresh.",
            zh=f"热启动：前缀取自 {path}，优化器重新初始化。",
        )
    )
