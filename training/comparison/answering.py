"""Everybody's answers and scores on one loaded model, a part at a time, and how far all of them are together.

Knows a comparison's contenders and its directory; does not know what is made of what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from training.data.encoding import IGNORED_LABEL, EncodedExample, Example, ExampleEncoder
from training.evaluation.answering import Answer, answer_examples
from training.evaluation.job import UNNOTED, Watcher
from training.evaluation.journal import Journal, fingerprint, weights_stamp
from training.probes.attributes import Pair
from training.probes.choices import ChoiceQuestion
from training.probes.findings import Bias, Choices
from training.probes.letters import score_choices
from training.probes.likelihood import mean_divergence
from training.probes.pairs import answer_rows, asked_prompts, likelihood_rows, summarize
from training.settings.train import TrainingSettings


class Steps:
    """How much of the whole is done, while one part after another counts its own."""

    def __init__(self, watcher: Watcher, total: int) -> None:
        self._watcher = watcher
        self._total = total
        self._before = 0

    def done(self, count: int) -> None:
        """``count`` of the part in hand are done."""
        self._watcher.progress(self._before + count, self._total)

    def end_part(self, size: int) -> None:
        """The part in hand, of ``size``, is done."""
        self._before += size
        self.done(0)


@dataclass(frozen=True)
class Answering:
    """What answers: a loaded model with every contender's prefix, the base's None first.

    Attributes:
        model: with all of them.
        tokenizer: the model's.
        prefixes: by contender.
        weights: the directory of the model's files.
        steps: is told how far it is.
    """

    model: ChatGLMForConditionalGeneration
    tokenizer: ChatGLMTokenizer
    prefixes: tuple[Prefix | None, ...]
    weights: Path
    steps: Steps

    def answers(self, examples: Sequence[Example], settings: TrainingSettings, journal: Path) -> list[list[Answer]]:
        """Everybody's answers in the order of the examples; those that ``journal`` has are not asked for again."""
        asked = {name: value for name, value in settings.to_dict().items() if name not in UNNOTED}
        hashes = [prefix.sha256 if prefix else None for prefix in self.prefixes]
        evaluation = fingerprint(examples, settings=asked, weights=weights_stamp(self.weights), prefixes=hashes)
        kept = Journal(journal, evaluation, len(self.prefixes))
        found = kept.begin(len(examples))
        self.steps.done(len(found))
        known = frozenset(found)
        for place, answers in answer_examples(self.model, self.tokenizer, examples, settings, self.prefixes, known):
            found[place] = answers
            kept.append(place, answers)
            self.steps.done(len(found))
        self.steps.end_part(len(examples))
        return [found[place] for place in range(len(examples))]

    def divergences(
        self, examples: Sequence[Example], answers: Sequence[Sequence[Answer]], settings: TrainingSettings
    ) -> list[float]:
        """Everybody's divergence from the base, in nats a token of the base's own ``answers`` to ``examples``."""
        encoder = ExampleEncoder(self.tokenizer, settings)
        end = int(self.tokenizer.eos_token_id)
        rows = []
        for example, (base, *_) in zip(examples, answers, strict=True):
            prompt = encoder.encode_prompt(example)
            said = self.tokenizer.encode_text(base.text) + ([] if base.is_cut else [end])
            rows.append(EncodedExample(prompt + said, [IGNORED_LABEL] * len(prompt) + said))
        return mean_divergence(self.model, rows, self.prefixes, encoder.pad_id, lambda: self.steps.done(0))

    def choices(self, questions: Sequence[ChoiceQuestion], file: str) -> Choices:
        """Multiple-choice questions, each scored by everybody."""
        found = score_choices(self.model, self.tokenizer, questions, self.prefixes, file, self.steps.done)
        self.steps.end_part(len(questions) * len(self.prefixes))
        return found

    def bias(self, pairs: Sequence[Pair], settings: TrainingSettings, journal: Path, file: str) -> Bias:
        """Pairs that differ in an attribute alone, as everybody treats them."""
        rows = likelihood_rows(self.model, self.tokenizer, pairs, self.prefixes, self.steps.done)
        self.steps.end_part(len(rows) * len(self.prefixes))
        prompts = [Example(prompt, "") for prompt in asked_prompts(pairs)]
        said = self.answers(prompts, settings, journal) if prompts else []
        rows += answer_rows(pairs, [[answer.text for answer in answers] for answers in said])
        return summarize(file, rows)


def count_steps(rows: int, questions: int, choices: int, pairs: Sequence[Pair], contenders: int) -> int:
    """All that `Steps` will count."""
    scored = choices + sum(bool(pair.sides[0].answers) for pair in pairs)
    return rows + questions + scored * contenders + len(asked_prompts(pairs))
