"""A prefix at several strengths: how well it does its task, and how much of everything else it leaves as it was.

Takes a model that is in memory, and the general questions from whoever asks. Knows no file and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import RunError
from training.data.encoding import Example
from training.evaluation.answering import ASKING, answer_examples, reference_text
from training.evaluation.metrics import Scores, mean_scores, score
from training.settings.train import TrainingSettings

# A strength is proposed that gives away at most this share of the best task score.
GIVEN_AWAY = 0.02


@dataclass(frozen=True)
class StrengthPoint:
    """What a prefix does at one strength.

    Attributes:
        strength: of the prefix.
        task: mean scores on the evaluated rows.
        kept: mean ROUGE-L of answers to general questions against the base's own, 0 to 100.
        unchanged: questions that were answered word for word as the base does.
    """

    strength: float
    task: Scores
    kept: float
    unchanged: int

    def to_dict(self) -> dict[str, float]:
        """For a report's data."""
        return {**asdict(self), "task": self.task.to_dict()}


@dataclass(frozen=True)
class StrengthSweep:
    """Points by strength, and how many general questions were asked at each."""

    points: tuple[StrengthPoint, ...]
    questions: int

    @property
    def proposed(self) -> float:
        """The least strength that does the task almost as well as the best one: less strength keeps more."""
        best = max(point.task.rouge_l for point in self.points)
        return min(point.strength for point in self.points if point.task.rouge_l >= best * (1 - GIVEN_AWAY))


def read_strengths(text: str) -> list[float]:
    """Strengths as a person lists them, ``0,0.5,1``, in order.

    Raises:
        RunError: for what is no list of numbers.
    """
    try:
        return sorted({float(part) for part in text.replace("，", ",").split(",") if part.strip()})
    except ValueError:
        raise RunError(
            f"--strengths is a list of numbers from 0 to 1.5, such as 0,0.25,0.5,0.75,1; found {text!r}.",
            f"--strengths 应为 0 到 1.5 之间的数，用逗号分隔，例如 0,0.25,0.5,0.75,1；实际为 {text!r}。",
        ) from None


def sweep_strengths(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    prefixes: Sequence[tuple[float, Prefix]],
    questions: Sequence[str],
    on_answered: Callable[[int, int], None],
) -> StrengthSweep:
    """Answer ``examples`` and ``questions`` with each of ``prefixes``, one prefix at its strengths.

    ``on_answered`` is told how many rows and questions of how many have all their answers.
    """
    own = [prefix for _, prefix in prefixes]
    total = len(examples) + len(questions)
    task: list[list[Scores]] = [[] for _ in prefixes]
    for count, (index, answers) in enumerate(answer_examples(model, tokenizer, examples, settings, own), start=1):
        reference = reference_text(tokenizer, examples[index], settings)
        for scores, answer in zip(task, answers, strict=True):
            scores.append(score(answer.text, reference))
        on_answered(count, total)
    general = [Example(question, "") for question in questions]
    kept: list[list[float]] = [[] for _ in prefixes]
    asking = replace(settings, **ASKING)
    answered = answer_examples(model, tokenizer, general, asking, [None, *own])
    for count, (_, (base, *changed)) in enumerate(answered, start=len(examples) + 1):
        for shares, answer in zip(kept, changed, strict=True):
            shares.append(likeness(answer.text, base.text))
        on_answered(count, total)
    points = [
        StrengthPoint(strength, mean_scores(scores), sum(shares) / max(len(shares), 1), shares.count(100.0))
        for (strength, _), scores, shares in zip(prefixes, task, kept, strict=True)
    ]
    return StrengthSweep(tuple(points), len(questions))


def likeness(answer: str, base: str) -> float:
    """How much of what the base says is kept in an answer: ROUGE-L against it, 100 for the same words."""
    return 100.0 if answer == base else score(answer, base).rouge_l
