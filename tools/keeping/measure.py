"""Trainings of the demo model with several ``--keep``, and two of their prefixes at several strengths.

Each point is a line of the results' file as soon as it is known, so that a measurement which was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from chatglm2 import ChatSession, Engine, load_model, load_tokenizer
from tools.demo_model.__main__ import DATA_DIRECTORY, MODEL_DIRECTORY
from tools.demo_model.forgetting import Examination, Findings, train_prefix
from training.settings.train import TrainingSettings

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "keeping.jsonl"
KEEPS = (0.5, 1.0, 0.0, 0.25, 0.75)
STRENGTHS = (0.25, 0.5, 0.75, 1.25)
OF_STRENGTH = (0.5, 0.0)  # the values of ``--keep`` whose prefixes are measured at every strength
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
            missing = list(_missing(known, seed, keep))
            if not missing:
                continue
            prefix = train_prefix(f"--keep {keep} --seed {seed}", model.config)
            steps = TrainingSettings.from_dict({"keep": keep}).max_steps
            for strength in missing:
                found = examination.examine(prefix.at(strength))
                _append(_record(found, strength, seed=seed, keep=keep, steps=steps))
    engine.close()


def read_records() -> list[Record]:
    """What was measured so far."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def _missing(known: list[Record], seed: int, keep: float) -> Iterator[float]:
    measured = {record["strength"] for record in known if (record["seed"], record["keep"]) == (seed, keep)}
    wanted = (1.0, *(STRENGTHS if keep in OF_STRENGTH else ()))
    return (strength for strength in wanted if strength not in measured)


def _record(
    found: Findings,
    strength: float,
    seed: int | None = None,
    keep: float | None = None,
    steps: int | None = None,
) -> Record:
    """A line of the results; the base has no training."""
    asked = {"seed": seed, "keep": keep, "steps": steps, "strength": strength}
    return {"benchmark": "keeping", **asked, **asdict(found), **machine()}


def _append(record: Record) -> None:
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(json.dumps(record, ensure_ascii=False), flush=True)
