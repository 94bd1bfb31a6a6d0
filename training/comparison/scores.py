"""What a comparison found of a checkpoint, kept beside it: there when the evaluation is deleted or the run renamed.

Only a checkpoint of a run is written beside; a prefix that somebody keeps elsewhere is not ours to add files to.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from chatglm2.files import read_regular
from training.comparison.result import Comparison, Contestant
from training.runs.layout import RUN_FILE
from training.runs.storage import SMALL_FILE_BYTES, write_atomically

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.json"


class CheckpointScores(BaseModel):
    """Means of the last comparison, from 0 to 100; None for what it did not ask."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    finished_at: str = ""
    evaluated_on: str | None = None
    evaluated_rows: int | None = None
    rouge_l: float | None = None
    bleu_4: float | None = None
    kept: float | None = None


def scores_of(result: Comparison, contestant: Contestant) -> CheckpointScores:
    """What ``result`` says of one of its contestants."""
    kept = contestant.kept.likeness if contestant.kept is not None else None
    if result.file is None:  # nothing but multiple choice or pairs was asked for
        return CheckpointScores(finished_at=result.finished_at, kept=kept)
    return CheckpointScores(
        finished_at=result.finished_at,
        evaluated_on=Path(result.file).name,
        evaluated_rows=len(result.rows),
        rouge_l=contestant.scores.get("rouge-l"),
        bleu_4=contestant.scores.get("bleu-4"),
        kept=kept,
    )


def keep_scores(result: Comparison) -> None:
    """Leaves them beside each checkpoint of a run; where that cannot be written, the comparison is no worse for it."""
    for contestant in result.contestants:
        if contestant.checkpoint is None or not (Path(contestant.checkpoint).parent / RUN_FILE).is_file():
            continue
        text = scores_of(result, contestant).model_dump_json(indent=1, exclude_none=True)
        try:
            write_atomically(Path(contestant.checkpoint) / SCORES_FILE, text + "\n")
        except OSError as error:
            logger.warning("%s: scores could not be kept beside it: %s", contestant.checkpoint, error)


def read_scores(checkpoint: Path) -> CheckpointScores | None:
    """What was kept beside a checkpoint; None where there is nothing that can be read."""
    try:
        return CheckpointScores.model_validate_json(read_regular(checkpoint / SCORES_FILE, SMALL_FILE_BYTES))
    except (OSError, ValidationError):
        return None
