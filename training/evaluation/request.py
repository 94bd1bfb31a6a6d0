"""What is asked to be evaluated, before anything was looked at. Knows no command line and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.settings.train import TrainingSettings

PREDICT, EVAL = "predict", "eval"


@dataclass(frozen=True)
class EvaluationRequest:
    """What somebody wants to know of a model.

    Attributes:
        values: the settings that were named, by name; the rest are chosen from the checkpoint, or keep their defaults.
        splits: `EVAL` measures on the validation file, `PREDICT` answers the test file; in this order.
        output_dir: where the results go; None for a place of their own.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = (PREDICT,)
    output_dir: Path | None = None

    def settings(self) -> TrainingSettings:
        """Settings with defaults filled in."""
        return TrainingSettings.from_dict(self.values)
