"""What a model forgets while it learns: general questions, answered by the base and again by what is in training.

Knows the questions, when they are asked and how answers are compared. Does not know how an answer is computed. Asking
costs one batch of short greedy answers, and leaves the training as it was, to the bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatglm2 import Prefix
from chatglm2.errors import ChatGLMError
from training.data.encoding import find_general_prompts
from training.data.files import read_table
from training.evaluation.answering import ASKING
from training.evaluation.metrics import score
from training.loop.questioner import Questioner, tell_given_up
from training.runs.events import MessageEvent, RetentionEvent
from training.runs.layout import ANSWERS_FILE
from training.runs.storage import explaining_storage_errors, read_json, write_atomically
from training.runs.store import Run
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)
PROMPTS_FILE = Path(__file__).with_name("retention_prompts.json")
ROWS_AT_ONCE = 16
SHOWN_EXAMPLES = 3
MAXIMUM_PROMPTS = 200


def read_prompts(settings: TrainingSettings, run: Run | None = None) -> list[str]:
    """The questions of ``--retention_file``, or our own; ``run`` is told of rows that were skipped."""
    if settings.retention_file is None:
        prompts: list[str] = json.loads(PROMPTS_FILE.read_text(encoding="utf-8"))
        return prompts
    table = read_table(settings.retention_file, skip_bad_rows=settings.skip_bad_rows)
    prompts = find_general_prompts(table, settings)[:MAXIMUM_PROMPTS]
    if run is not None and table.bad_rows.numbers:
        en, zh = table.bad_rows.describe(table.path.name)
        run.append(MessageEvent(en=en, zh=zh))
    return prompts


def compare(step: int, prompts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> RetentionEvent:
    """How near answers are to the base's own: the mean ROUGE-L, and the ones that changed most."""
    pairs = list(zip(prompts, before, after, strict=True))
    kept = [100.0 if old == new else score(new, old).rouge_l for _, old, new in pairs]
    changed = sorted((share, place) for place, share in enumerate(kept) if share < 100)
    examples = [pairs[place] for _, place in changed[:SHOWN_EXAMPLES]]
    return RetentionEvent(
        step=step,
        kept=round(sum(kept) / len(kept), 2),
        prompts=len(pairs),
        unchanged=sum(old == new for _, old, new in pairs),
        examples=[{"prompt": prompt, "before": old, "after": new} for prompt, old, new in examples],
    )


class RetentionWatch(TrainerCallback):
    """Asks the questions at each validation, or where nothing is validated at each checkpoint.

    Args:
        run: is told the outcome, and keeps the base's answers.
        settings: of the run.
        questioner: asks the model in training.
    """

    def __init__(self, run: Run, settings: TrainingSettings, questioner: Questioner) -> None:
        self.run = run
        self.settings = settings
        self.prompts = read_prompts(settings, run)
        self.base_answers: list[str] | None = None
        self._questioner = questioner

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the base answer; a resumed run finds its answers, as weights that all learn are the base no more."""
        if not state.is_world_process_zero:
            return
        file = self.run.path / ANSWERS_FILE
        self.base_answers = _read_answers(file, self.prompts) if state.global_step else None
        if self.base_answers is None and state.global_step and self.settings.trains_all_weights:
            self.run.append(
                MessageEvent(
                    en=f"{ANSWERS_FILE}, the base model's answers, is gone: what is forgotten is not checked.",
                    zh=f"基座模型的回答 {ANSWERS_FILE} 已不存在，不再检查遗忘。",
                )
            )
            return
        if self.base_answers is None:
            try:
                self.base_answers = self._answer(None)
            except (ChatGLMError, torch.OutOfMemoryError) as error:
                self._give_up(error)
                return
            content = {"prompts": self.prompts, "answers": self.base_answers}
            with explaining_storage_errors(file):
                write_atomically(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        if not state.global_step:
            self.run.append(compare(0, self.prompts, self.base_answers, self.base_answers))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ask(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.settings.eval_steps:
            self._ask(state)

    def _ask(self, state: TrainerState) -> None:
        if self.base_answers is None:
            return
        try:
            answers = self._answer(self._questioner.own_prefix())
        except (ChatGLMError, torch.OutOfMemoryError) as error:  # the training is worth more than a look at it
            self._give_up(error)
            return
        self.run.append(compare(state.global_step, self.prompts, self.base_answers, answers))

    def _give_up(self, error: Exception) -> None:
        self.base_answers = None
        tell_given_up(self.run, "What is forgotten is not checked any more", "不再检查遗忘", error)

    def _answer(self, prefix: Prefix | None) -> list[str]:
        asking = replace(self.settings, **ASKING, per_device_eval_batch_size=ROWS_AT_ONCE)
        texts = self._questioner.ask(self.prompts, asking, prefix)
        logger.info("%d general questions answered", len(texts))
        return texts


class _Answers(BaseModel):
    """What `ANSWERS_FILE` holds: the base model's answer to each prompt."""

    prompts: list[str]
    answers: list[str]


def _read_answers(file: Path, prompts: Sequence[str]) -> list[str] | None:
    try:
        found = _Answers.model_validate(read_json(file))
    except (OSError, ValueError):
        return None
    return found.answers if found.prompts == list(prompts) and len(found.answers) == len(prompts) else None
