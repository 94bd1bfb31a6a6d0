"""Counterfactual pairs compared: does a model treat two texts alike that differ in a name, a pronoun or a region alone?

Two figures, each a template at a time, as the pairs of one template are not independent:

- **likelihood**, where a template has answers: by how many nats a token the answer is likelier in the first text;
- **answer**, where it has none: how far the model's own two answers are from each other, 100 minus their ROUGE-L, with
  the words that were filled in taken for one.

It says whether the attribute changes what is said, in these texts. It does not say that the change is unfair, nor that
other texts would show the same; a word in an answer counts with how common it is. Knows no file.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from training.evaluation.strengths import likeness
from training.probes.attributes import Pair
from training.probes.findings import Bias, Measure, PairRow, PairScore, PairSummary
from training.probes.intervals import mean_interval
from training.probes.likelihood import Continuation, log_likelihoods

FILLED_IN = "X"  # stands for either side's word when two answers are compared


def likelihood_rows(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    pairs: Sequence[Pair],
    prefixes: Sequence[Prefix | None],
    on_scored: Callable[[int], None],
) -> list[PairRow]:
    """The pairs that have answers, with each prefix's difference; ``on_scored`` is told how many are done, counting a
    pair once for each prefix.
    """
    chosen = [pair for pair in pairs if pair.sides[0].answers]
    rows = [
        [_continuation(tokenizer, side.prompt, answer) for side in pair.sides for answer in side.answers]
        for pair in chosen
    ]
    flat = [row for group in rows for row in group]
    found: list[list[float]] = []
    for count, prefix in enumerate(prefixes, 1):
        done = (count - 1) * len(chosen)
        sums = iter(log_likelihoods(model, flat, prefix, lambda done=done: on_scored(done)))  # type: ignore[misc]
        differences = []
        for group in rows:
            means = [next(sums) / max(len(row.said), 1) for row in group]
            half = len(means) // 2
            differences.append(statistics.fmean(means[:half]) - statistics.fmean(means[half:]))
        found.append(differences)
        on_scored(count * len(chosen))
    return [
        _row(pair, "likelihood", tuple(differences[place] for differences in found))
        for place, pair in enumerate(chosen)
    ]


def answer_rows(pairs: Sequence[Pair], answers: Sequence[Sequence[str]]) -> list[PairRow]:
    """The pairs without answers of their own, with each contender's difference.

    ``answers`` are everybody's to `asked_prompts`, in that order.
    """
    said = dict(zip(asked_prompts(pairs), answers, strict=True))
    rows = []
    for pair in pairs:
        if pair.sides[0].answers:
            continue
        first, second = (said[side.prompt] for side in pair.sides)
        both = tuple(zip(first, second, strict=True))
        differences = tuple(100 - likeness(*_alike(texts, pair.words)) for texts in both)
        rows.append(_row(pair, "answer", differences, both))
    return rows


def asked_prompts(pairs: Sequence[Pair]) -> list[str]:
    """The prompts that models answer themselves, each once."""
    return list(dict.fromkeys(side.prompt for pair in pairs for side in pair.sides if not side.answers))


def summarize(file: str, rows: Sequence[PairRow]) -> Bias:
    """The rows with what they say of each two groups of an attribute."""
    together: dict[tuple[str, tuple[str, str], Measure], list[PairRow]] = defaultdict(list)
    for row in rows:
        together[row.attribute, row.groups, row.measure].append(row)
    summaries = [
        PairSummary(
            attribute=attribute,
            groups=groups,
            measure=measure,
            templates=len({row.template for row in found}),
            pairs=len(found),
            scores=_scores(found, measure),
        )
        for (attribute, groups, measure), found in together.items()
    ]
    return Bias(file=file, rows=tuple(rows), summaries=tuple(summaries))


def _scores(rows: Sequence[PairRow], measure: Measure) -> tuple[PairScore, ...]:
    scores: list[PairScore] = []
    base_sizes: list[float] = []
    for contender in range(len(rows[0].differences)):
        signed: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            signed[row.template].append(row.differences[contender])
        leanings = [statistics.fmean(values) for values in signed.values()]
        sizes = [statistics.fmean(map(abs, values)) for values in signed.values()]
        base_sizes = base_sizes or sizes
        changes = [size - before for size, before in zip(sizes, base_sizes, strict=True)]
        scores.append(
            PairScore(
                leaning=mean_interval(leanings) if measure == "likelihood" else None,
                size=mean_interval(sizes, least=0, most=100 if measure == "answer" else math.inf),
                change=mean_interval(changes) if contender else None,
            )
        )
    return tuple(scores)


def _continuation(tokenizer: ChatGLMTokenizer, prompt: str, answer: str) -> Continuation:
    return Continuation(tokenizer.encode_prompt(prompt), tokenizer.encode_text(answer))


def _alike(texts: tuple[str, str], words: tuple[str, str]) -> tuple[str, str]:
    """Two answers, each side's own word replaced by the same mark."""
    first, second = (text.replace(word, FILLED_IN) for text, word in zip(texts, words, strict=True))
    return first, second


def _row(
    pair: Pair, measure: Measure, differences: tuple[float, ...], answers: tuple[tuple[str, str], ...] = ()
) -> PairRow:
    return PairRow(
        template=pair.template + 1,
        attribute=pair.attribute,
        groups=pair.groups,
        measure=measure,
        prompts=(pair.sides[0].prompt, pair.sides[1].prompt),
        differences=differences,
        answers=answers,
    )
