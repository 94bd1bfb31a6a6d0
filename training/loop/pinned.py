"""Pinned prompts, answered by the base and by what is in training at every checkpoint.

Knows when they are asked and what becomes of the answers. Does not know how an answer is computed. Asking costs one
batch of short greedy answers, and leaves the training as it was, to the bit.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatglm2 import Prefix
from chatglm2.errors import ChatGLMError
from training.loop.questioner import Questioner, tell_given_up
from training.runs.events import PinnedAnswer, PinnedEvent, point_history
from training.runs.pins import MOST_PINS, read_pins
from training.runs.store import Run
from training.settings.keep_recipe import ANSWER_TOKENS
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)


class PinnedWatch(TrainerCallback):
    """Asks what is pinned at that moment; the run may be given other prompts while it trains.

    Where all weights learn, the base is asked before the first step, and has no answer to what is pinned later.

    Args:
        run: names the prompts, and is told the answers.
        settings: of the run.
        questioner: asks the model in training.
    """

    def __init__(self, run: Run, settings: TrainingSettings, questioner: Questioner) -> None:
        self.run = run
        self.settings = settings
        self._questioner = questioner
        self._base: dict[str, str] = {}
        self._has_failed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find what the base has answered before, or ask it."""
        if not state.is_world_process_zero:
            return
        for event in point_history(self.run.events()[0], PinnedEvent):
            self._base |= {item.prompt: item.base for item in event.answers if item.base is not None}
        if not state.global_step:
            self._ask(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._ask(state)

    def _ask(self, state: TrainerState) -> None:
        prompts = [] if self._has_failed else read_pins(self.run)
        if not prompts:
            return
        try:
            self._ask_base([prompt for prompt in prompts if prompt not in self._base], state)
            tuned = self._answers(prompts, self._questioner.own_prefix()) if state.global_step else {}
        except (ChatGLMError, torch.OutOfMemoryError) as error:  # the training is worth more than a look at it
            self._give_up(error)
            return
        answers = [PinnedAnswer(prompt=text, base=self._base.get(text), tuned=tuned.get(text)) for text in prompts]
        self.run.append(PinnedEvent(step=state.global_step, answers=answers))

    def _ask_base(self, prompts: list[str], state: TrainerState) -> None:
        if prompts and not (self.settings.trains_all_weights and state.global_step):
            self._base |= self._answers(prompts, None)

    def _answers(self, prompts: list[str], prefix: Prefix | None) -> dict[str, str]:
        asking = replace(
            self.settings,
            do_sample=False,
            num_beams=1,
            compat=None,
            max_target_length=min(self.settings.max_target_length, ANSWER_TOKENS),
            per_device_eval_batch_size=MOST_PINS,
        )
        texts = self._questioner.ask(prompts, asking, prefix)
        logger.info("%d pinned prompts answered", len(texts))
        return dict(zip(prompts, texts, strict=True))

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        tell_given_up(self.run, "Pinned prompts are not answered any more", "不再回答固定的提示", error)
