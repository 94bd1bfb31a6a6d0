"""The page validates by itself, and a checkpoint's loss is of rows that it has not seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.services import Services
from app.tabs.train import TrainTab
from app.text.languages import Speech
from app.training.form import with_validation
from app.views.checkpoint_table import checkpoint_table
from training.settings.samples import SAMPLE_DEV_FILE, SAMPLE_TRAIN_FILE

SAMPLE = {"train_file": str(SAMPLE_TRAIN_FILE), "validation_split": 0.1, "save_steps": 20}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (SAMPLE, (str(SAMPLE_DEV_FILE), 20)),
        (SAMPLE | {"train_file": "mine.json", "eval_steps": ""}, (None, 20)),
        (SAMPLE | {"train_file": "mine.json", "eval_steps": 5}, (None, 5)),
        (SAMPLE | {"validation_file": "other.json"}, ("other.json", 20)),
        (SAMPLE | {"validation_split": 0.0}, (None, None)),
    ],
    ids=["the sample", "own file", "own steps", "own validation data", "off"],
)
def test_a_run_of_the_page_validates_with_its_checkpoints(asked: dict[str, Any], expected: tuple[Any, Any]) -> None:
    values = with_validation(asked)
    assert (values.get("validation_file"), values.get("eval_steps") or None) == expected


def test_the_form_holds_rows_back_unless_somebody_says_otherwise(train: TrainTab) -> None:
    assert train.form["validation_split"].value == 0.1


def test_the_table_tells_a_validation_from_a_single_batch(services: Services) -> None:
    base, *checkpoints = services.sources.sources()
    assert checkpoints[0].info is not None
    validated = replace(checkpoints[0], info=replace(checkpoints[0].info, validation_loss=2.5))
    table = checkpoint_table([base, validated, *checkpoints[1:]], {}, Speech("zh"))
    assert "2.5000（验证）" in table and "1.2500（单批）" in table
