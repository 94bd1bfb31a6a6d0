"""The trainer's process: from a run's directory to its end, whatever that is.

Loads what the run's settings name, trains, and leaves a state and a last word. Everything it prints goes to the run's
log, which somebody else opened for it.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import cast

import torch
from transformers import set_seed

from chatglm2 import ChatGLMForConditionalGeneration, load_model
from chatglm2.errors import ChatGLMError, RunError
from chatglm2.hub import Hub, resolve_model_directory
from chatglm2.loading import default_device, read_config
from chatglm2.prefix import load_prefix_state
from training.arguments import TrainingSettings
from training.events import EndedEvent, FailedEvent, FinishedEvent, MessageEvent, StoppedEvent
from training.full_trainer import FullTrainer
from training.liveness import start_time
from training.memory import require_memory_for_all_weights, should_recompute_activations
from training.run_data import load_data
from training.runs import Run, Status
from training.trainer import PrefixTrainer

logger = logging.getLogger(__name__)
HANDOVER_SECONDS = 10.0


def work(directory: Path) -> int:
    """Train the run in ``directory``; returns the process's exit code."""
    run = Run(directory)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _take_over(run)
    _stop_on_signals(run)
    try:
        run.reserve_space()
        _end(run, train(run))
        return 0
    except ChatGLMError as error:
        logger.error("%s", error.en)
        failure = FailedEvent(step=_last_step(run), en=error.en, zh=error.zh)
    except Exception as error:
        traceback.print_exc()
        failure = _unexpected(run, error)
    _end(run, failure)
    return 1


def train(run: Run) -> EndedEvent:
    """Load, train and say how it ended."""
    settings = run.settings()
    _require_device(settings)
    resume_step = run.state().resume_step
    dataset, eval_dataset = load_data(run, settings)
    checkpoint = run.checkpoint_path(resume_step) if resume_step is not None else None
    model = _prepare_model(run, settings, checkpoint)
    kind = PrefixTrainer if settings.pre_seq_len else FullTrainer
    trainer = kind(run, settings, model, dataset, eval_dataset, should_recompute_activations(model, settings))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step, total = trainer.state.global_step, trainer.state.max_steps
    if step >= total:
        return FinishedEvent(step=step, en=f"Finished: all {total} steps are done.", zh=f"训练完成：共 {total} 步。")
    return StoppedEvent(
        step=step,
        en=f"Stopped as asked, after step {step} of {total}; it can be resumed.",
        zh=f"已按要求停止在第 {step}/{total} 步，可以继续训练。",
    )


def _prepare_model(run: Run, settings: TrainingSettings, checkpoint: Path | None) -> ChatGLMForConditionalGeneration:
    """The model with what is to be trained in it; ``checkpoint`` is the one to resume from."""
    if settings.pre_seq_len is None:
        return _prepare_all_weights(run, settings, checkpoint)
    model = _load_model(settings)
    set_seed(settings.seed)
    model.prepare_prefix_tuning(settings.pre_seq_len, settings.prefix_projection)
    if settings.ptuning_checkpoint and checkpoint is None:
        _warm_start(run, model, settings)
    return model


def _prepare_all_weights(
    run: Run, settings: TrainingSettings, checkpoint: Path | None
) -> ChatGLMForConditionalGeneration:
    """A model whose weights all learn; a checkpoint of such a run is a model of its own."""
    device = torch.device(settings.device) if settings.device != "auto" else default_device()
    dtype = trainable_dtype(settings.dtype, device)
    if settings.dtype == "float16":
        run.append(
            MessageEvent(
                en=f"Weights in float16 lose small updates, so they are trained in {dtype}.",
                zh=f"float16 权重会丢失微小的更新，因此以 {dtype} 训练。",
            )
        )
    directory = resolve_model_directory(checkpoint or settings.model_name_or_path, hub=cast(Hub, settings.hub))
    require_memory_for_all_weights(read_config(directory), getattr(torch, dtype), device)
    model = _load_model(replace(settings, model_name_or_path=str(directory), dtype=dtype))
    if model.config.quantization_bit:
        raise RunError(
            f"{directory} is quantized to {model.config.quantization_bit} bits, and quantized weights cannot learn. "
            "Use the unquantized checkpoint, or train a prefix (--pre_seq_len 128).",
            f"{directory} 已量化为 {model.config.quantization_bit} 位，量化后的权重无法训练。"
            "请使用未量化的检查点，或训练前缀（--pre_seq_len 128）。",
        )
    set_seed(settings.seed)
    return model


def trainable_dtype(asked: str, device: torch.device) -> str:
    """The dtype in which all weights are trained: bfloat16 on GPUs that have it, float32 elsewhere."""
    if asked in ("float32", "bfloat16"):
        return asked
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def _require_device(settings: TrainingSettings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RunError(
            "--device cuda needs a CUDA GPU; torch sees none here. Use --device auto or cpu.",
            "--device cuda 需要 CUDA 显卡，当前未检测到。请使用 --device auto 或 cpu。",
        )


def _load_model(settings: TrainingSettings) -> ChatGLMForConditionalGeneration:
    dtype = None if settings.dtype == "auto" else settings.dtype
    device = None if settings.device == "auto" else settings.device
    logger.info("Loading %s", settings.model_name_or_path)
    return load_model(
        settings.model_name_or_path,
        dtype=dtype,
        quantization_bit=settings.quantization_bit,
        device=device,
        hub=cast(Hub, settings.hub),
    )


def _warm_start(run: Run, model: ChatGLMForConditionalGeneration, settings: TrainingSettings) -> None:
    path = str(settings.ptuning_checkpoint)
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


def _take_over(run: Run) -> None:
    """Wait until the run names this process; whoever started it writes that, and until then nobody else writes."""
    deadline = time.monotonic() + HANDOVER_SECONDS
    while run.state().pid != os.getpid():
        if time.monotonic() > deadline:  # started by hand, or its starter died
            run.update(status=Status.STARTING, pid=os.getpid(), pid_started_at=start_time(os.getpid()))
            return
        time.sleep(0.05)


def _stop_on_signals(run: Run) -> None:
    """A polite kill is a request to stop: finish the step, save, say so."""

    def request_stop(number: int, frame: FrameType | None) -> None:
        run.set_stop_request(True)

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)


def _end(run: Run, event: EndedEvent) -> None:
    run.discard_leftovers()  # on a full disk this makes room for what follows
    run.set_stop_request(False)
    run.update(status=Status(event.kind), message_en=event.en, message_zh=event.zh)
    run.append(event)
    logger.info("%s", event.en)


def _unexpected(run: Run, error: Exception) -> FailedEvent:
    if isinstance(error, torch.OutOfMemoryError):
        return FailedEvent(
            step=_last_step(run),
            en="The GPU has too little free memory. Use a smaller --per_device_train_batch_size with more "
            "--gradient_accumulation_steps, or --gradient_checkpointing on.",
            zh="显存不足。请减小 --per_device_train_batch_size 并增大 --gradient_accumulation_steps，"
            "或使用 --gradient_checkpointing on。",
        )
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return FailedEvent(
        step=_last_step(run),
        en=f"Training failed unexpectedly ({what}). The log has the details.",
        zh=f"训练意外失败（{what}）。详情见日志。",
    )


def _last_step(run: Run) -> int:
    checkpoints = run.checkpoints()
    return checkpoints[-1].step if checkpoints else 0
