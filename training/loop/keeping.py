"""Which checkpoints stay: the best one, how long to wait for a better one, and how many others.

Knows what validations measured, through the trainer's own history, which every checkpoint holds: a resumed run knows
what the interrupted one knew at that step. Does not know how a checkpoint is written, nor how anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.runs.storage import remove_directory
from training.runs.store import Run
from training.settings.train import TrainingSettings


@dataclass(frozen=True)
class Validation:
    """What a validation at ``step`` measured of the metric that decides."""

    step: int
    value: float


def validations(history: Sequence[Mapping[str, Any]], metric: str) -> list[Validation]:
    """The validations in a trainer's history that measured ``metric``, in order."""
    key = f"eval_{metric}"
    return [Validation(int(entry["step"]), float(entry[key])) for entry in history if key in entry]


def best_of(measured: Sequence[Validation], metric: str) -> Validation | None:
    """The best; of equals the earliest. A loss is best when it is lowest, a score when it is highest."""
    sign = 1 if metric == "loss" else -1
    finite = [item for item in measured if math.isfinite(item.value)]
    return min(finite, key=lambda item: sign * item.value, default=None)


class CheckpointKeeper(TrainerCallback):
    """Saves what validates best, stops when nothing better comes, marks the best and deletes the oldest."""

    def __init__(self, run: Run, settings: TrainingSettings) -> None:
        self.run = run
        self.settings = settings
        self.metric = settings.metric_for_best_model
        self.stopped_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take back what a run that goes on from an earlier step does not know yet."""
        self._mark(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        measured = validations(state.log_history, self.metric)
        best = best_of(measured, self.metric)
        if best is None:
            return
        if self.settings.load_best_model_at_end and best.step == state.global_step:
            control.should_save = True
        patience = self.settings.early_stopping_patience
        if patience and sum(item.step > best.step for item in measured) >= patience:
            self.stopped_early = state.global_step < state.max_steps
            control.should_training_stop = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        best = self._mark(state)
        limit = self.settings.save_total_limit
        if limit and state.is_world_process_zero:
            for old in self.run.resumable_checkpoints()[:-limit]:
                if best is None or old.step != best.step:
                    remove_directory(old.path)

    def best(self, state: TrainerState) -> Validation | None:
        """The best of the checkpoints that are on disk."""
        kept = {info.step for info in self.run.checkpoints()}
        return best_of(_at(kept, validations(state.log_history, self.metric)), self.metric)

    def verdict(self, state: TrainerState) -> tuple[str, str]:
        """Which checkpoint is best, in English and Chinese; nothing where nothing was validated."""
        best = self.best(state)
        if best is None:
            return "", ""
        name = self.run.checkpoint_path(best.step).name
        return (
            f" {name} is the best: {self.metric} {best.value:.4g}.",
            f"最佳检查点是 {name}：{'损失' if self.metric == 'loss' else self.metric} {best.value:.4g}。",
        )

    def _mark(self, state: TrainerState) -> Validation | None:
        if not state.is_world_process_zero:
            return None
        best = self.best(state)
        self.run.update(best_step=best.step if best else None)
        return best


def _at(steps: Collection[int], measured: Sequence[Validation]) -> list[Validation]:
    return [item for item in measured if item.step in steps]
