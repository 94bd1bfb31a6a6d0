"""What a training run says while it trains, and what it hears: events to the run's files, stop requests from them.

Knows the trainer's steps and the run's files. Decides nothing about training but its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.runs.events import EvaluationEvent, StartedEvent, StepEvent
from training.runs.store import Status

if TYPE_CHECKING:
    from training.loop.trainer import RunTrainer

# What a validation measures, among what transformers reports of its own speed.
MEASURED = ("loss", "rouge-1", "rouge-2", "rouge-l", "bleu-4")


class RunReporter(TrainerCallback):
    """Tells the run what the trainer does, and the trainer what the run's readers ask for."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer
        self._began = self._clock = 0.0
        self._first_step = self._reported_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        self._began = self._clock = time.monotonic()
        self._first_step = self._reported_step = state.global_step
        if trainer.ranks.rank:
            # Each process drops other parts of the prefix; a resumed run reads its random numbers after this.
            torch.manual_seed(args.seed + trainer.ranks.rank)
        trainer.run.update(status=Status.RUNNING)
        trainer.run.append(
            StartedEvent(
                step=state.global_step,
                total_steps=state.max_steps,
                examples=trainer.dataset.mixture.task_rows,
                general_examples=trainer.dataset.mixture.general_rows,
                trainable_parameters=sum(parameter.numel() for parameter in trainer.trained_parameters()),
                device=_place(args.device, trainer.ranks.size),
            )
        )
        self._obey_stop_request(state, control)

    def set_aside(self, seconds: float) -> None:
        """Leave ``seconds``, in which no step was taken, out of the time that steps take."""
        self._clock += seconds

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
        tokens = self.trainer.ranks.total(self.trainer.token_counts)
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
                tokens_per_second=tokens / max(elapsed, 1e-9),
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
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        measured = {name: found[name] for name in MEASURED if name in found}
        if measured:
            self.trainer.run.append(EvaluationEvent(step=state.global_step, metrics=measured))

    def _obey_stop_request(self, state: TrainerState, control: TrainerControl) -> None:
        if self.trainer.ranks.decide(self.trainer.run.stop_requested()):
            control.should_training_stop = True
            control.should_save = state.global_step > self._first_step


def _place(device: torch.device, processes: int) -> str:
    return str(device) if processes == 1 else f"{processes} × {device.type}"
