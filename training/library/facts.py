"""The facts of a prefix's card, gathered from what lies around it: the checkpoint, its run, evaluations of it.

Knows files of runs and of evaluations. What the files do not say is taken from the card that is there already, so that
a prefix that came from elsewhere keeps its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chatglm2.errors import RunError
from training.comparison.place import ComparisonPlace, ComparisonStore
from training.comparison.scores import read_scores, scores_of
from training.library.base import base_fingerprint, base_name
from training.library.card import Facts
from training.library.entry import ORIGIN_FILE
from training.runs.checkpoints import CheckpointInfo
from training.runs.events import EvaluationEvent, RetentionEvent, StartedEvent, last_event, point_history
from training.runs.layout import RUN_FILE
from training.runs.store import Run

# Evaluations are many, and the last ones count.
EVALUATIONS_READ = 50


def gather_facts(info: CheckpointInfo, known: Facts | None = None) -> Facts:
    """What is known of a prefix, now that its files are at hand.

    Which weights it was trained on is found out once: others may lie in their place by now. Of a prefix that came from
    elsewhere, only its card can tell.

    Args:
        info: the checkpoint.
        known: the facts of the card that it has.
    """
    own = {**_of_checkpoint(info), **_of_run(info), **_of_evaluation(info)}
    if not (known is not None and known.base_fingerprint) and not (info.path / ORIGIN_FILE).is_file():
        own["base_fingerprint"] = base_fingerprint(info.base_model) if info.base_model else ""
    earlier = known.known() if known is not None else {}
    found = earlier | {name: value for name, value in own.items() if value not in (None, "")}
    try:
        return Facts.model_validate(found)
    except ValidationError as error:  # a loss that is no number, say
        wrong = {problem["loc"][0] for problem in error.errors(include_url=False, include_input=False)}
        return Facts.model_validate({name: value for name, value in found.items() if name not in wrong})


def _of_checkpoint(info: CheckpointInfo) -> dict[str, Any]:
    settings = info.settings
    return {
        "run": info.run_name[:200],
        "base_model": base_name(info.base_model)[:200] if info.base_model else "",
        "data_file": Path(str(settings.get("train_file") or "")).name,
        "step": info.step or None,
        "prefix_tokens": info.pre_seq_len,
        "projection": info.prefix_projection,
        "loss": info.loss,
        "strength": info.proposed_strength,
        "created": datetime.fromtimestamp(info.created_at, UTC).replace(microsecond=0),
    }


def _of_run(info: CheckpointInfo) -> dict[str, Any]:
    """What its run measured when it was saved."""
    if not (info.path.parent / RUN_FILE).is_file():
        return {}
    events, _ = Run(info.path.parent).events()
    started = last_event(events, StartedEvent)
    found: dict[str, Any] = {"data_rows": started.examples if started is not None else None}
    for measured in point_history(events, EvaluationEvent):
        if measured.step == info.step:
            metrics = measured.metrics
            found |= {"validation_loss": metrics.get("loss"), "rouge_l": metrics.get("rouge-l")}
            found |= {"bleu_4": metrics.get("bleu-4")}
    kept = [point.kept for point in point_history(events, RetentionEvent) if point.step == info.step]
    return found | ({"kept": kept[-1]} if kept else {})


def _of_evaluation(info: CheckpointInfo) -> dict[str, Any]:
    """What the last evaluation that compared it with its base came to; a run's checkpoint has that beside it."""
    if (kept := read_scores(info.path)) is not None:
        return kept.model_dump(exclude={"finished_at"}, exclude_none=True)
    for output in (info.path.parent.parent, info.path.parent):
        for place in ComparisonStore(output).list()[:EVALUATIONS_READ]:
            found = _scores_in(place, info.path)
            if found:
                return found
    return {}


def _scores_in(place: ComparisonPlace, checkpoint: Path) -> dict[str, Any]:
    """What an evaluation found of a checkpoint; nothing where it was not among those compared."""

    def is_meant(named: str | None) -> bool:
        return named is not None and Path(named).resolve() == checkpoint.resolve()

    try:
        if not any(map(is_meant, place.request().checkpoints)):
            return {}
    except RunError:
        return {}
    result = place.result()
    named = next((one for one in result.contestants if is_meant(one.checkpoint)), None) if result else None
    if result is None or named is None:
        return {}
    return scores_of(result, named).model_dump(exclude={"finished_at"}, exclude_none=True)
