"""What a training run says while it trains, and what it hears: events to the run's files, stop requests from them.

Knows the trainer's steps and the run's files. Decides nothing about training but its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.distributed.ranks import Ranks
from training.loop.meter import Meter
from training.runs.events import EvaluationEvent, MessageEvent, StartedEvent, StepEvent
from training.runs.store import Run, Status

# What a validation measures, among what transformers reports of its own speed.
MEASURED = ("loss", "rouge-1", "rouge-2", "rouge-l", "bleu-4")


class RunReporter(TrainerCallback):
    """Tells the run what the trainer does, and the trainer what the run's readers ask for."""

    def __init__(self, run: Run, ranks: Ranks, meter: Meter) -> None:
        self.run = run
        self.ranks = ranks
        self.meter = meter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.meter.begin(state.global_step)
        if self.ranks.rank:
            # Each process drops other parts of the prefix; a resumed run reads its random numbers after this.
            torch.manual_seed(args.seed + self.ranks.rank)
        if self.ranks.is_first:
            self._set_aside_after(state.global_step)
        self.run.update(status=Status.RUNNING)
        self.run.append(
            StartedEvent(
                step=state.global_step,
                total_steps=state.max_steps,
                examples=self.meter.task_rows,
                general_examples=self.meter.general_rows,
                trainable_parameters=self.meter.trained_parameters,
                device=_place(args.device, self.ranks.size),
            )
        )
        if self.ranks.decide(self.run.stop_requested()):  # before the first step; nothing is there to be saved
            control.should_training_stop = True

    def _set_aside_after(self, step: int) -> None:
        """Checkpoints of steps that are done again would pass for this training's own."""
        place = self.run.set_aside_after(step)
        if place is not None:
            self.run.append(
                MessageEvent(
                    en=f"Later checkpoints, of steps that are done again, are set aside in {place}.",
                    zh=f"之后的检查点对应的步骤将重新训练，它们已移到 {place}。",
                )
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.ranks.decide(self.run.stop_requested()):
            control.should_training_stop = control.should_save = True
        if control.should_save and args.eval_strategy != "no" and args.eval_steps == args.save_steps:
            control.should_evaluate = True  # what validates with its checkpoints does so with the last one, too
        # A logging window ends at every checkpoint, so that a resumed run draws the same curve. A validation may ask
        # for one when this step's window is closed already.
        control.should_log = control.should_log or control.should_save or control.should_evaluate

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
        pace = self.meter.read(state.global_step, state.max_steps, self.ranks.total(self.meter.tokens))
        self.run.append(
            StepEvent(
                step=state.global_step,
                total_steps=state.max_steps,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                gradient_norm=logs.get("grad_norm", math.nan),
                seconds_per_step=pace.seconds_per_step,
                tokens_per_second=pace.tokens_per_second,
                seconds_left=pace.seconds_left,
            )
        )

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
            self.run.append(EvaluationEvent(step=state.global_step, metrics=measured))


def _place(device: torch.device, processes: int) -> str:
    return str(device) if processes == 1 else f"{processes} × {device.type}"
