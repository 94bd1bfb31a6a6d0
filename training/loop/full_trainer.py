"""Full fine-tuning: all weights are trained, and a checkpoint is a complete model.

Knows what such a checkpoint holds; everything else about training is `trainer.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, save_fsdp_optimizer
from torch import nn

from training.loop.trainer import RunTrainer, write_metadata
from training.runs.checkpoints import MODEL_METADATA_FILE

SHARD_SIZE = "4GB"


class FullTrainer(RunTrainer):
    """Trains every weight. `chatglm2.load_model` and the page's ``--model`` load its checkpoints as they are."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write config, weights in shards and tokenizer; `Trainer` gathered ``state_dict`` if weights are spread."""
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.run.staging)
        directory.mkdir(parents=True, exist_ok=True)
        model = self.whole_model
        model.config.use_cache = True  # `Trainer` turns it off for its own forward passes
        try:
            model.save_pretrained(directory, state_dict=state_dict, max_shard_size=SHARD_SIZE)
        finally:
            model.config.use_cache = False
        self.dataset.encoder.tokenizer.save_pretrained(directory)
        write_metadata(directory / MODEL_METADATA_FILE, self.checkpoint_metadata())

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate shares weights on GPUs only, though torch's FSDP works on CPUs as well."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.settings.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            state._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            for shared in (state._shared_state, PartialState._shared_state):
                shared["distributed_type"] = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather what is spread over the processes, and write a complete model."""
        if self.is_fsdp_enabled:
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Each process's part of the optimizer; not, as `Trainer` would, the weights a second time."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: who resumes loads the checkpoint's own weights, as it is a complete model."""
