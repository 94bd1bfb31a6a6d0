"""Training on transformers' `Trainer`: what every run has in common, and P-Tuning v2 on top of it.

Knows how a step is taken, watched and saved, and tells a `Run` about it. Does not know where model, data and settings
come from, nor in which process it runs. Training all weights is `full_trainer.py`'s.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput

from chatglm2 import ChatGLMForConditionalGeneration, PrefixEncoder, save_prefix
from chatglm2.model.prefix import load_prefix_state
from training.data.batching import ExampleDataset, LengthGroupedSampler, PaddingCollator, ShuffledSampler
from training.data.encoding import IGNORED_LABEL
from training.distributed.ranks import ALONE, Ranks, is_lost_connection
from training.evaluation.scoring import label_count, loss_batches, score_sample
from training.keep.rows import KeptRows
from training.loop.gate import Gate, Neighbours
from training.loop.health import HealthGuard
from training.loop.keeping import CheckpointKeeper
from training.loop.meter import Meter
from training.loop.passes import Passes, Rows, recompute_layers, split
from training.loop.reporter import RunReporter
from training.loop.trainer_arguments import build_arguments
from training.plan.step_plan import StepPlan, can_split, general_rows_at_once
from training.runs.checkpoints import METADATA_FILE
from training.runs.events import CheckpointEvent
from training.runs.storage import library_storage_error, publish_directory, storage_error
from training.runs.store import Run
from training.settings.train import TrainingSettings

ONE_BATCH_AT_A_TIME = StepPlan()


class RunTrainer(Trainer):
    """Trains what of a model needs gradients, and keeps a run informed.

    The loss of a step is the mean of its batches' means, as in the original, whatever their numbers of tokens.
    Subclasses say what a checkpoint holds.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        run: Run,
        settings: TrainingSettings,
        model: ChatGLMForConditionalGeneration,
        dataset: ExampleDataset,
        eval_dataset: ExampleDataset | None = None,
        plan: StepPlan = ONE_BATCH_AT_A_TIME,
        ranks: Ranks = ALONE,
        neighbours: Neighbours | None = None,
        kept: KeptRows | None = None,
    ) -> None:
        encoder = dataset.encoder
        self.run = run
        self.ranks = ranks
        self.settings = settings
        self.kept = kept
        self.dataset = dataset
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.meter = Meter(dataset.mixture.task_rows, dataset.mixture.general_rows, sum(map(Tensor.numel, learning)))
        self.gate = Gate(run, neighbours if ranks.size == 1 else None, self.meter, model.device)
        self.gate.watch_layers(model)
        self.passes = Passes(
            run,
            learning,
            self._loss_weights,
            lambda: recompute_layers(model),
            recomputes=plan.recomputes,
            can_split=can_split(settings, ranks.size),
            rows_at_once=plan.rows,
        )
        self.general_rows_at_once = general_rows_at_once(settings, plan)
        self.keeper = CheckpointKeeper(run, settings)
        self.health = HealthGuard(run, settings, self.meter)
        super().__init__(
            model=model,
            args=build_arguments(settings, run.staging, model.device, plan),
            data_collator=PaddingCollator(encoder.pad_id, encoder.masked_label, _padded_length(settings)),
            train_dataset=dataset,
            eval_dataset=eval_dataset if settings.eval_steps else None,
            callbacks=[RunReporter(run, ranks, self.meter), self.health, self.keeper],
        )
        self.remove_callback(PrinterCallback)

    @property
    def whole_model(self) -> ChatGLMForConditionalGeneration:
        """The model without what transformers wrapped around it."""
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, ChatGLMForConditionalGeneration)
        return model

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch; ``token_count`` is for the statistics and not for the model."""
        inputs.pop("token_count", None)
        if model.training and "loss_weights" not in inputs:
            weights = self._loss_weights(inputs["labels"])
            if weights is not None:
                inputs["loss_weights"] = weights
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _loss_weights(self, labels: Tensor) -> Tensor | None:
        """How much each label of a row ``[B]`` counts in the loss; None where all of this process count alike.

        A label counts as it does in the mean over its own batch, in all processes together, and the batches of a pass
        count alike: so neither merging batches nor sharing them among processes changes loss or gradients.
        """
        ranks, rows = self.ranks, len(labels)
        size = self.settings.per_device_train_batch_size * ranks.size
        if ranks.size == 1 and rows <= size:
            return None
        # A pass's rows lie side by side in the processes: first all of the first one's, then the next one's.
        batch = (ranks.rank * rows + torch.arange(rows, device=labels.device)) // size
        batches = (ranks.size * rows - 1) // size + 1
        counts = torch.zeros(batches, device=labels.device)
        counts.index_add_(0, batch, (labels[:, 1:] != IGNORED_LABEL).sum(1).float())
        if ranks.size > 1:
            dist.all_reduce(counts)
        return (ranks.size / (batches * counts.clamp(min=1)))[batch]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """An epoch, unless a stop is asked for before it: transformers looks for that only after a step."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One pass, or what became of it where memory was short; its loss is kept for `HealthGuard`."""
        take = super().training_step

        def compute(rows: Rows) -> Tensor:
            with self.gate.passing():
                loss: Tensor = take(model, rows, *args, **kwargs)
            return loss

        self.meter.tokens += inputs.pop("token_count")
        rows: Rows = self._prepare_inputs(inputs)
        loss = self.passes.take(rows, compute)
        self.meter.keep_loss(loss)
        if self.kept is not None and self.accelerator.sync_gradients:
            for part in split(self._general_rows(self.kept), self.general_rows_at_once, self._loss_weights):
                self.passes.take(part, compute)
        return loss

    def _general_rows(self, kept: KeptRows) -> Rows:
        """The step's general rows, in passes of their own behind its last: so they take no memory beside the task's."""
        rows: Rows = self._prepare_inputs(kept.at(self.state.global_step))
        rows["loss_weights"] = rows["loss_weights"] * self.current_gradient_accumulation_steps
        return rows

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' optimizer, whose first step takes memory for its moments."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if not isinstance(optimizer, torch.optim.Adam):  # what another one has done by then is not known
            return optimizer
        step = optimizer.step

        def guarded(optimizer: torch.optim.Optimizer, *given: Any, **named: Any) -> Any:
            """Moments that were taken half are taken anew."""

            def take() -> Any:
                for weight, state in list(optimizer.state.items()):
                    if "exp_avg_sq" not in state:
                        del optimizer.state[weight]
                return step(*given, **named)

            return self.passes.with_room(take)

        vars(optimizer)["step"] = MethodType(guarded, optimizer)
        return optimizer

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Loss on the validation rows, and scores of a few answers; leaves the training's random numbers alone."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        rows = self.eval_dataset
        assert isinstance(rows, ExampleDataset)
        with self.meter.set_aside(), torch.random.fork_rng(devices=devices):
            metrics = {"eval_loss": self._validation_loss(rows), **self._score_answers()}
        return EvalLoopOutput(
            predictions=torch.empty(0).numpy(), label_ids=None, metrics=metrics, num_samples=len(rows)
        )

    @torch.no_grad()
    def _validation_loss(self, rows: ExampleDataset) -> float:
        """Mean loss of the rows' own answers, every token weighing alike, whatever the batches and processes.

        The processes take turns at the batches. Where weights are shared all must take part in each pass, so that one
        without a batch left takes the first one again, for nothing.
        """
        assert self.model is not None
        model = self._wrap_model(self.model, training=False)
        model.eval()
        collate = PaddingCollator(rows.encoder.pad_id, IGNORED_LABEL)
        batches = loss_batches([rows[index] for index in range(len(rows))], self.settings)
        totals = torch.zeros(2, dtype=torch.float64)  # losses, tokens

        def compute(part: Rows) -> Tensor:
            loss: Tensor = self.compute_loss(model, part)
            return loss

        for start in range(0, len(batches), self.ranks.size):
            place = start + self.ranks.rank
            batch = batches[place if place < len(batches) else 0]
            inputs = collate(batch)
            inputs.pop("token_count")
            self.gate.make_room()
            with self.compute_loss_context_manager():
                loss = float(self.passes.measure(self._prepare_inputs(inputs), compute))
            if place < len(batches):
                tokens = sum(map(label_count, batch))
                totals += torch.tensor([loss * tokens, tokens], dtype=torch.float64)
        losses, tokens = self.ranks.totals(totals).tolist()
        return losses / tokens if tokens else math.nan

    def _score_answers(self) -> dict[str, float]:
        """Scores of the first ``eval_generate_samples`` validation rows, answered greedily, the same in all processes.

        One process answers, as each has the whole model.
        """
        rows = self.eval_dataset
        count = self.settings.eval_generate_samples
        if not count or not isinstance(rows, ExampleDataset):
            return {}
        found: list[Any] = [None]
        if self.is_world_process_zero():
            examples = [rows.example(index) for index in range(min(count, len(rows)))]
            greedy = replace(self.settings, do_sample=False, num_beams=1)
            model = self.whole_model
            prefix, tokenizer = model.own_prefix(), rows.encoder.tokenizer
            found[0] = self.passes.with_room(lambda: score_sample(model, tokenizer, examples, greedy, prefix))
        broadcast_object_list(found)
        return {f"eval_{name}": value for name, value in found[0].to_dict().items()}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # The processes take turns at its batches: together they see those that one process with all their rows would.
        # Grouped by steps, the order does not depend on how many batches run as one.
        dataset, settings = self.dataset, self.settings
        if not settings.group_by_length:
            return ShuffledSampler(settings.seed, dataset.mixture)
        batch_size = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * self.ranks.size
        return LengthGroupedSampler(dataset.approximate_lengths, batch_size, self.settings.seed, dataset.mixture)

    def checkpoint_metadata(self) -> dict[str, Any]:
        """What a checkpoint says about itself, whatever it holds."""
        return {
            "format": 1,
            "run": self.run.name,
            "base_model": self.settings.model_name_or_path,
            "rotary_angles": self.whole_model.rotary_angles,
            "step": self.state.global_step,
            "loss": self._last_logged("loss"),
            "validation_loss": self._validated(),
            "created_at": time.time(),
            "settings": self.settings.to_dict(),
        }

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint out of sight, then move it to its place: it appears complete or not at all."""
        self.health.require_sound()
        step = self.state.global_step
        target = self.run.checkpoint_path(step)
        try:
            super()._save_checkpoint(model, trial)
            self.ranks.wait()  # each process has put its part there
            if not self.ranks.is_first:
                return
            publish_directory(self.run.staging / target.name, target)
        except OSError as error:
            raise storage_error(target, error) from error
        except (SafetensorError, RuntimeError) as error:  # how torch and safetensors report a full disk
            if is_lost_connection(error):  # waiting for the other processes is part of saving
                raise
            raise library_storage_error(target, error) from error
        self.run.append(CheckpointEvent(step=step, name=target.name))
        self.run.forget_replaced()

    def _validated(self) -> float | None:
        """The validation loss at this step, if it was measured."""
        step = self.state.global_step
        measured = (
            entry["eval_loss"] for entry in self.state.log_history if entry["step"] == step and "eval_loss" in entry
        )
        return next(measured, None)

    def _last_logged(self, name: str) -> float | None:
        return next((entry[name] for entry in reversed(self.state.log_history) if name in entry), None)


class PrefixTrainer(RunTrainer):
    """P-Tuning v2: only the prefix is trained, saved and loaded."""

    @property
    def prefix_encoder(self) -> PrefixEncoder:
        """What is being trained."""
        encoder = self.whole_model.transformer.prefix_encoder
        assert isinstance(encoder, PrefixEncoder)
        return encoder

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the prefix, and what it is."""
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.run.staging)
        directory.mkdir(parents=True, exist_ok=True)
        encoder = self.prefix_encoder
        save_prefix(encoder.state_dict(), directory)
        metadata = {
            **self.checkpoint_metadata(),
            "pre_seq_len": encoder.pre_seq_len,
            "prefix_projection": encoder.trans is not None,
            "num_layers": encoder.num_layers,
        }
        write_metadata(directory / METADATA_FILE, metadata)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.prefix_encoder.load_state_dict(load_prefix_state(resume_from_checkpoint, self.whole_model.config))


def _padded_length(settings: TrainingSettings) -> int | None:
    """Tokens that every row is padded to where padding is learnt as in the original: all that a row may have."""
    if settings.compat is None or settings.ignore_pad_token_for_loss:
        return None
    return settings.max_source_length + settings.max_target_length + 1


def write_metadata(file: Path, metadata: dict[str, Any]) -> None:
    """What a checkpoint says about itself, for `read_checkpoint`."""
    file.write_text(json.dumps(metadata, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
