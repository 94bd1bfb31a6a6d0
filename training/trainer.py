"""P-Tuning v2 on transformers' `Trainer`: only the prefix is trained, saved and loaded.

Knows how a step is taken, watched and saved, and tells a `Run` about it. Does not know where model, data and settings
come from, nor in which process it runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from chatglm2 import ChatGLMForConditionalGeneration, PrefixEncoder, save_prefix
from chatglm2.errors import RunError
from chatglm2.prefix import load_prefix_state
from training.arguments import TrainingSettings
from training.batching import ExampleDataset, LengthGroupedSampler, PaddingCollator
from training.checkpoints import METADATA_FILE
from training.events import CheckpointEvent, EvaluationEvent, StartedEvent, StepEvent, is_collapsed
from training.runs import Run, Status
from training.storage import publish_directory, remove_directory, storage_error


def build_arguments(
    settings: TrainingSettings, staging: Path, device: torch.device, recompute_activations: bool
) -> TrainingArguments:
    """transformers' arguments for our settings.

    Mixed precision is off: the frozen base is loaded in its dtype and the prefix stays fp32, as in the original.
    """
    arguments = TrainingArguments(
        output_dir=str(staging),
        use_cpu=device.type == "cpu",
        max_steps=settings.max_steps,
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        seed=settings.seed,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps,
        prediction_loss_only=True,
        activation_checkpointing=recompute_activations,
        activation_checkpointing_kwargs={"use_reentrant": False} if recompute_activations else None,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    # One process drives one GPU; left alone, Trainer would spread it over all of them with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class PrefixTrainer(Trainer):
    """Trains a model's prefix and keeps a run informed.

    The loss of a step is the mean of its batches' means, as in the original, whatever their numbers of tokens.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        run: Run,
        settings: TrainingSettings,
        model: ChatGLMForConditionalGeneration,
        dataset: ExampleDataset,
        eval_dataset: ExampleDataset | None = None,
        recompute_activations: bool = False,
    ) -> None:
        encoder = dataset.encoder
        self.run = run
        self.settings = settings
        self.reporter = _RunReporter(self)
        self.token_counts = 0
        self._step_losses: list[Tensor] = []
        self.dataset = dataset
        super().__init__(
            model=model,
            args=build_arguments(settings, run.staging, model.device, recompute_activations),
            data_collator=PaddingCollator(encoder.pad_id, label_padding=encoder.masked_label),
            train_dataset=dataset,
            eval_dataset=eval_dataset if settings.eval_steps else None,
            callbacks=[self.reporter],
        )
        self.remove_callback(PrinterCallback)

    @property
    def prefix_encoder(self) -> PrefixEncoder:
        """What is being trained."""
        encoder = self.accelerator.unwrap_model(self.model).transformer.prefix_encoder
        assert isinstance(encoder, PrefixEncoder)
        return encoder

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch; ``token_count`` is for the statistics and not for the model."""
        count = inputs.pop("token_count")
        if model.training:
            self.token_counts += count
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One batch; its loss is kept for `check_health`."""
        loss = super().training_step(*args, **kwargs)
        self._step_losses.append(loss)
        return loss

    def check_health(self, step: int) -> None:
        """Stop before a broken gradient reaches the prefix.

        Raises:
            RunError: if a loss is exactly 0, or a loss or gradient is not a finite number.
        """
        losses = torch.stack(self._step_losses).tolist()
        self._step_losses.clear()
        gradients = [parameter.grad for parameter in self.prefix_encoder.parameters() if parameter.grad is not None]
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        broken = next((loss for loss in losses if is_collapsed(loss)), None)
        if broken is not None or not finite:
            raise _collapse(step, broken, self.run, self.settings)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return LengthGroupedSampler(self.dataset.approximate_lengths, self.args.train_batch_size, self.settings.seed)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the prefix, and what it is."""
        directory = Path(output_dir or self.run.staging)
        directory.mkdir(parents=True, exist_ok=True)
        encoder = self.prefix_encoder
        save_prefix(encoder.state_dict(), directory)
        metadata = {
            "format": 1,
            "run": self.run.name,
            "base_model": self.settings.model_name_or_path,
            "step": self.state.global_step,
            "loss": self._last_logged("loss"),
            "pre_seq_len": encoder.pre_seq_len,
            "prefix_projection": encoder.trans is not None,
            "num_layers": encoder.num_layers,
            "created_at": time.time(),
            "settings": self.settings.to_dict(),
        }
        text = json.dumps(metadata, ensure_ascii=False, indent=2) + "\n"
        (directory / METADATA_FILE).write_text(text, encoding="utf-8")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint out of sight, then move it to its place: it appears complete or not at all."""
        step = self.state.global_step
        target = self.run.checkpoint_path(step)
        try:
            super()._save_checkpoint(model, trial)
            publish_directory(self.run.staging / target.name, target)
        except OSError as error:
            raise storage_error(target, error) from error
        except (SafetensorError, RuntimeError) as error:  # how torch and safetensors report a full disk
            raise _unsaved(target, error) from error
        self.run.append(CheckpointEvent(step=step, name=target.name))
        if self.settings.save_total_limit:
            for old in self.run.resumable_checkpoints()[: -self.settings.save_total_limit]:
                remove_directory(old.path)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        config = self.accelerator.unwrap_model(self.model).config
        self.prefix_encoder.load_state_dict(load_prefix_state(resume_from_checkpoint, config))

    def _last_logged(self, name: str) -> float | None:
        return next((entry[name] for entry in reversed(self.state.log_history) if name in entry), None)


class _RunReporter(TrainerCallback):
    """Tells the run what the trainer does, and the trainer what the run's readers ask for."""

    def __init__(self, trainer: PrefixTrainer) -> None:
        self.trainer = trainer
        self._began = self._clock = 0.0
        self._first_step = self._reported_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        self._began = self._clock = time.monotonic()
        self._first_step = self._reported_step = state.global_step
        trainer.run.update(status=Status.RUNNING)
        trainer.run.append(
            StartedEvent(
                step=state.global_step,
                total_steps=state.max_steps,
                examples=len(trainer.dataset),
                trainable_parameters=sum(parameter.numel() for parameter in trainer.prefix_encoder.parameters()),
                device=str(args.device),
            )
        )
        self._obey_stop_request(state, control)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.check_health(state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._obey_stop_request(state, control)
        # A logging window ends at every checkpoint, so that a resumed run draws the same curve.
        control.should_log = control.should_log or control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        now = time.monotonic()
        elapsed = now - self._clock
        steps = max(state.global_step - self._reported_step, 1)
        mean_seconds = (now - self._began) / max(state.global_step - self._first_step, 1)
        self.trainer.run.append(
            StepEvent(
                step=state.global_step,
                total_steps=state.max_steps,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                gradient_norm=logs.get("grad_norm", math.nan),
                seconds_per_step=elapsed / steps,
                tokens_per_second=self.trainer.token_counts / max(elapsed, 1e-9),
                seconds_left=mean_seconds * (state.max_steps - state.global_step),
            )
        )
        self._clock, self._reported_step, self.trainer.token_counts = now, state.global_step, 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is not None:
            self.trainer.run.append(EvaluationEvent(step=state.global_step, metrics={"loss": loss}))

    def _obey_stop_request(self, state: TrainerState, control: TrainerControl) -> None:
        if self.trainer.run.stop_requested():
            control.should_training_stop = True
            control.should_save = state.global_step > self._first_step


def _collapse(step: int, loss: float | None, run: Run, settings: TrainingSettings) -> RunError:
    """The error for a training that broke down, with what is left of it."""
    kept = run.checkpoints()
    left_en = f"{kept[-1].path.name} is the last good checkpoint." if kept else "There is no checkpoint yet."
    left_zh = f"最后一个完好的检查点是 {kept[-1].path.name}。" if kept else "尚未保存任何检查点。"
    if loss == 0.0:
        found_en, found_zh = "the loss is exactly 0", "损失恰好为 0"
    else:
        what = "gradient" if loss is None else "loss"
        found_en = f"the {what} is no longer a finite number"
        found_zh = f"{'梯度' if loss is None else '损失'}已不是有限数值"
    return RunError(
        f"Training stopped at step {step}: {found_en}, so the prefix would be ruined. {left_en} "
        f"Train with a learning rate below {settings.learning_rate:g}, or with --dtype float32 or bfloat16.",
        f"训练在第 {step} 步停止：{found_zh}，继续会毁掉前缀。{left_zh}"
        f"请使用低于 {settings.learning_rate:g} 的学习率，或用 --dtype float32 或 bfloat16。",
    )


def _unsaved(target: Path, error: Exception) -> RunError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return RunError(
        f"{target} could not be written ({reason}). Check the free space; earlier checkpoints are untouched.",
        f"无法写入 {target}（{reason}）。请检查剩余空间；之前的检查点不受影响。",
    )
