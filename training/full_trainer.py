"""Full fine-tuning: all weights are trained, and a checkpoint is a complete model.

Knows what such a checkpoint holds; everything else about training is `trainer.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from training.checkpoints import MODEL_METADATA_FILE
from training.trainer import RunTrainer, write_metadata

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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: who resumes loads the checkpoint's own weights, as it is a complete model."""
