"""Questions to a model in training, asked by whoever watches it.

Knows that asking is no step, and that whoever waits for an answer goes first. Does not know what is asked, or what
becomes of the answers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import ChatGLMError
from training.data.encoding import Example
from training.evaluation.answering import answer_examples
from training.loop.gate import Gate
from training.loop.meter import Meter
from training.runs.events import MessageEvent
from training.runs.store import Run
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)


class Questioner:
    """One for all who watch a training.

    Args:
        model: in training.
        tokenizer: the model's.
        meter: is told that asking is no step.
        gate: lets whoever waits for an answer go first.
    """

    def __init__(
        self, model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, meter: Meter, gate: Gate
    ) -> None:
        self._model, self._tokenizer, self._meter, self._gate = model, tokenizer, meter, gate

    def own_prefix(self) -> Prefix | None:
        """What is in training, as it is now; None where all weights learn."""
        return self._model.own_prefix()

    def ask(self, prompts: Sequence[str], asking: TrainingSettings, prefix: Prefix | None) -> list[str]:
        """The answers in the prompts' order; ``asking`` says how, and the base answers without a ``prefix``."""
        examples = [Example(prompt, "") for prompt in prompts]
        texts = {}
        with self._meter.set_aside():
            self._gate.make_room()
            for place, (answer,) in answer_examples(self._model, self._tokenizer, examples, asking, (prefix,)):
                texts[place] = answer.text
                self._gate.make_room()
        return [texts[place] for place in range(len(prompts))]


def tell_given_up(run: Run, en: str, zh: str, error: Exception) -> None:
    """The training is worth more than a look at it: say what is not done any more, and why."""
    reason = str(error).strip().splitlines()[0]
    reason_zh = error.zh if isinstance(error, ChatGLMError) else reason
    run.append(MessageEvent(en=f"{en}, the training goes on: {reason}", zh=f"{zh}，训练继续：{reason_zh}"))
    logger.warning("%s: %s", en, reason)
