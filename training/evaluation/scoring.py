"""How well a model answers: every example answered, once by each contender, and scored against its own answer.

Takes a model that is in memory. Knows no file and no page: `plan.py` says what to evaluate, `job.py` runs it and
`reporting/` tells what came out.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from training.data.batching import PaddingCollator
from training.data.encoding import IGNORED_LABEL, EncodedExample, Example, ExampleEncoder
from training.evaluation.answering import Answer, answer_examples, reference_text
from training.evaluation.metrics import Scores, mean_scores, score
from training.evaluation.strengths import StrengthSweep
from training.settings.train import TrainingSettings

# Logits of all label positions are there at once: a row takes far more memory here than while it is answered.
LARGEST_LOSS_BATCH = 8


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer to one example. ``is_cut``: its tokens were used up before it had finished."""

    text: str
    scores: Scores
    is_cut: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no text in it; it scores 0."""
        return self.scores.empty_predictions > 0


@dataclass(frozen=True)
class ScoredRow:
    """One example, what its answers were compared with, and an answer of each contender."""

    index: int
    example: Example
    reference: str
    answers: tuple[ScoredAnswer, ...]


@dataclass(frozen=True)
class Contender:
    """Who answers: a model with the prefix of a checkpoint, or as it is.

    Attributes:
        model: directory or hub id.
        checkpoint: where the prefix is from; None without one.
        prefix: the prefix itself.
        loss: mean loss of the rows' own answers, where it was measured.
    """

    model: str
    checkpoint: Path | None = None
    prefix: Prefix | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is done.

    Attributes:
        split: ``predict`` or ``eval``, which the original's names of files and scores begin with.
        file: whose rows were answered.
        contenders: the one that is evaluated, then the one it is compared with, if any.
        rows: in the order of the file.
        settings: how they were answered.
        seconds: that answering and scoring took.
        finished_at: local time.
        sweep: what the prefix does at other strengths, where that was asked.
    """

    split: str
    file: Path
    contenders: tuple[Contender, ...]
    rows: tuple[ScoredRow, ...]
    settings: TrainingSettings
    seconds: float
    finished_at: datetime
    sweep: StrengthSweep | None = None

    def scores(self, contender: int = 0) -> Scores:
        """Mean scores of a contender."""
        return mean_scores([row.answers[contender].scores for row in self.rows])

    def cut_answers(self, contender: int = 0) -> int:
        """How many of its answers had not finished when their tokens were used up."""
        return sum(row.answers[contender].is_cut for row in self.rows)


def score_rows(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    prefixes: Sequence[Prefix | None] = (None,),
    answered: Container[int] = (),
) -> Iterator[ScoredRow]:
    """Answer and score every example, once for each prefix; rows come as they are done, `ScoredRow.index` tells which.

    ``settings`` say how long, sampled or greedy, with how many beams, and how many answers at a time. Those at the
    places in ``answered`` are left out.
    """
    for index, answers in answer_examples(model, tokenizer, examples, settings, prefixes, answered):
        yield score_row(tokenizer, examples, settings, index, answers)


def score_row(
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    index: int,
    answers: Sequence[Answer],
) -> ScoredRow:
    """The answers to the example at ``index``, scored."""
    reference = reference_text(tokenizer, examples[index], settings)
    scored = (ScoredAnswer(answer.text, score(answer.text, reference), answer.is_cut) for answer in answers)
    return ScoredRow(index, examples[index], reference, tuple(scored))


def score_sample(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    prefix: Prefix | None = None,
) -> Scores:
    """Mean scores of one contender, as evaluation during training needs them."""
    rows = score_rows(model, tokenizer, examples, settings, (prefix,))
    return mean_scores([row.answers[0].scores for row in rows])


@torch.inference_mode()
def mean_loss(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    prefix: Prefix | None = None,
) -> float:
    """Mean loss of the examples' own answers, every token weighing alike, whatever the batches."""
    encoder = ExampleEncoder(tokenizer, settings)
    collate = PaddingCollator(encoder.pad_id, IGNORED_LABEL)
    rows = [encoder.encode(example) for example in examples]
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for batch in loss_batches(rows, settings):
            inputs = collate(batch)
            output = model(
                inputs["input_ids"].to(model.device),
                labels=inputs["labels"].to(model.device),
                prefix=[prefix] * len(batch),
            )
            tokens = sum(map(label_count, batch))
            total += float(output.loss) * tokens
            count += tokens
    finally:
        model.train(was_training)
    return total / count


def loss_batches(rows: Sequence[EncodedExample], settings: TrainingSettings) -> list[list[EncodedExample]]:
    """Rows as they are computed together for a loss; those of like length side by side, which are padded least."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    size = min(settings.per_device_eval_batch_size, LARGEST_LOSS_BATCH)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def label_count(row: EncodedExample) -> int:
    """Tokens that a row's loss is the mean over."""
    return sum(label != IGNORED_LABEL for label in row.labels[1:])
