"""Runs as they lie on disk once they are over: what a page shows, without the minutes of training it took."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from chatglm2 import ChatGLMConfig, save_prefix
from chatglm2.model.prefix import PrefixEncoder
from training.runs.checkpoints import METADATA_FILE
from training.runs.events import EvaluationEvent, Event, FinishedEvent, RetentionEvent, StartedEvent, StepEvent
from training.runs.layout import LOG_FILE
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings

PREFIX_TOKENS = 4


def write_past_run(output: Path, model: Path, name: str, steps: tuple[int, ...] = (20, 40)) -> Run:
    """A finished run on ``model`` with a checkpoint of a random prefix at each of ``steps``."""
    run = RunStore(output).create(TrainingSettings(model_name_or_path=str(model)), name)
    for event in _events(max(steps)):
        run.append(event)
    (run.path / LOG_FILE).write_text("one line\n" * 40, encoding="utf-8")
    first = run.checkpoint_path(steps[0])
    _write_checkpoint(first, model)
    for step in steps[1:]:
        shutil.copytree(first, run.checkpoint_path(step))
    for step in steps:
        _describe(run.checkpoint_path(step), model, step)
    run.update(status=Status.FINISHED)
    return run


def _write_checkpoint(place: Path, model: Path) -> None:
    config = ChatGLMConfig.from_pretrained(str(model), pre_seq_len=PREFIX_TOKENS)
    encoder = PrefixEncoder(config)
    encoder.reset_parameters()
    place.mkdir()
    save_prefix(encoder.state_dict(), place)


def _describe(place: Path, model: Path, step: int) -> None:
    known = {
        "step": step,
        "loss": 1.25,
        "pre_seq_len": PREFIX_TOKENS,
        "base_model": str(model),
        "created_at": time.time() + step / 1000,
    }
    (place / METADATA_FILE).write_text(json.dumps(known), encoding="utf-8")


def _events(last: int) -> list[Event]:
    steps: list[Event] = [_step(number, last) for number in range(1, last + 1)]
    changed = {"prompt": "你好", "before": "你好！", "after": "这条裙子……"}
    return [
        StartedEvent(step=0, total_steps=last, examples=9, trainable_parameters=3, device="cpu"),
        RetentionEvent(step=0, kept=100.0, prompts=12, unchanged=12, examples=[]),
        *steps,
        EvaluationEvent(step=last, metrics={"loss": 1.5, "rouge-l": 21.25}),
        RetentionEvent(step=last, kept=62.5, prompts=12, unchanged=7, examples=[changed]),
        FinishedEvent(step=last, en="All done.", zh="完成。"),
    ]


def _step(number: int, last: int) -> StepEvent:
    return StepEvent(
        step=number,
        total_steps=last,
        loss=4 / number,
        learning_rate=0.01,
        gradient_norm=1.0,
        seconds_per_step=0.5,
        tokens_per_second=100.0,
        seconds_left=0.0,
    )
