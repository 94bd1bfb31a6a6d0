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

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import ChatGLMError
from training.data.encoding import Example
from training.evaluation.answering import answer_examples
from training.loop.gate import Gate
from training.loop.meter import Meter
from training.runs.events import MessageEvent, PinnedAnswer, PinnedEvent, point_history
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
        model: in training.
        tokenizer: the model's.
        meter: is told that asking is no step.
        gate: lets whoever waits for an answer go first.
    """

    def __init__(
        self,
        run: Run,
        settings: TrainingSettings,
        model: ChatGLMForConditionalGeneration,
        tokenizer: ChatGLMTokenizer,
        meter: Meter,
        gate: Gate,
    ) -> None:
        self.run = run
        self.settings = settings
        self._model, self._tokenizer, self._meter, self._gate = model, tokenizer, meter, gate
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
            tuned = self._answers(prompts, self._model.own_prefix()) if state.global_step else {}
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
        found = {}
        with self._meter.set_aside():
            self._gate.make_room()
            examples = [Example(prompt, "") for prompt in prompts]
            for place, (answer,) in answer_examples(self._model, self._tokenizer, examples, asking, (prefix,)):
                found[prompts[place]] = answer.text
                self._gate.make_room()
        logger.info("%d pinned prompts answered", len(found))
        return found

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        reason = str(error).strip().splitlines()[0]
        reason_zh = error.zh if isinstance(error, ChatGLMError) else reason
        self.run.append(
            MessageEvent(
                en=f"Pinned prompts are not answered any more, the training goes on: {reason}",
                zh=f"不再回答固定的提示，训练继续：{reason_zh}",
            )
        )
        logger.warning("Pinned prompts: %s", reason)
