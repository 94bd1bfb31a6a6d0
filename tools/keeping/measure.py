"""Trainings of the demo model with several ``--keep``, and the default one's prefix at several strengths.

Each point is a line of the results' file as soon as it is known, so that a measurement which was stopped goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from chatglm2 import ChatSession, Engine, load_model, load_tokenizer
from tools.demo_model.__main__ import DATA_DIRECTORY, MODEL_DIRECTORY
from tools.demo_model.forgetting import Examination, Findings, train_prefix
from training.settings.keep_recipe import recipe_for, steps_for

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "keeping.jsonl"
KEEPS = (0.5, 1.0, 0.0, 0.25, 0.75)
STRENGTHS = (0.25, 0.5, 0.75, 1.25)
OF_STRENGTH = 0.5  # the ``--keep`` whose prefix is measured at every strength
Record = dict[str, Any]


def measure(seeds: tuple[int, ...]) -> None:
    """Measure what is missing in the results' file, a seed after the other."""
    known = read_records()
    model = load_model(MODEL_DIRECTORY)
    engine = Engine(model, slots=16)
    examination = Examination(ChatSession(engine, load_tokenizer(MODEL_DIRECTORY)), DATA_DIRECTORY)
    if all(record["keep"] is not None for record in known):
        _append(_record(examination.examine(None), strength=0.0))
    for seed in seeds:
        for keep in KEEPS:
            missing = _missing(known, seed, keep)
            if not missing:
                continue
            prefix = train_prefix(f"--keep {keep} --seed {seed}", model.config)
            for strength in missing:
                _append(_record(examination.examine(prefix.at(strength)), strength, seed, keep))
    engine.close()


def read_records() -> list[Record]:
    """What was measured so far."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def training_of(keep: float | None) -> Record:
    """What a training with ``--keep`` and nothing else does today; of None, the base's, nothing."""
    if keep is None:
        return {"keep": None, "steps": 0, "general_rows": 0}
    recipe = recipe_for(keep)
    return {"keep": keep, "steps": steps_for(keep), "general_rows": recipe.rows if recipe else 0}


def is_of(record: Record, training: Record) -> bool:
    """Whether a record is of such a training."""
    return all(record[name] == value for name, value in training.items())


def _missing(known: list[Record], seed: int, keep: float) -> list[float]:
    asked = {**training_of(keep), "seed": seed}
    measured = {record["strength"] for record in known if is_of(record, asked)}
    wanted = (1.0, *(STRENGTHS if keep == OF_STRENGTH else ()))
    return [strength for strength in wanted if strength not in measured]


def _record(found: Findings, strength: float, seed: int | None = None, keep: float | None = None) -> Record:
    """A line of the results; the base has neither seed nor training."""
    asked = {"seed": seed, **training_of(keep), "strength": strength}
    return {"benchmark": "keeping", **asked, **asdict(found), **machine()}


def _append(record: Record) -> None:
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(json.dumps(record, ensure_ascii=False), flush=True)
