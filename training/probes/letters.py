"""Multiple-choice questions scored by the letters' likelihood: which of A to D a model would rather say next.

The figure is the next token's distribution after the question in the chat's format, over the four letters alone; the
model writes nothing. That is how likely it finds each letter, not how well it reasons: an answer that thinks first may
be better. Knows questions and tokens; knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import DataError
from training.probes.choices import ChoiceQuestion, subjects_of
from training.probes.findings import LETTERS, ChoiceRow, Choices, ChoiceScore, ChoiceSubject
from training.probes.intervals import share_interval
from training.probes.likelihood import next_log_shares

WORD_START = "▁"  # how SentencePiece marks a piece that begins a word


def letter_ids(tokenizer: ChatGLMTokenizer) -> list[tuple[int, ...]]:
    """The tokens that say each letter after 答：: as it is there, and as an answer that is encoded alone begins.

    Only a spelling that the vocabulary has for all four counts, so that no letter has more of them.

    Raises:
        DataError: it has none.
    """
    spellings = []
    for mark in ("", WORD_START):
        ids = [tokenizer.convert_tokens_to_ids(f"{mark}{letter}") for letter in LETTERS]
        if tokenizer.unk_token_id not in ids:
            spellings.append(ids)
    if not spellings:
        raise DataError(
            "This model's vocabulary has no token for each of the letters A, B, C and D, so multiple-choice questions "
            "cannot be scored by their letters.",
            "该模型的词表没有 A、B、C、D 各自的 token，无法按字母的概率给选择题评分。",
        )
    return list(zip(*spellings, strict=True))


def score_choices(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    questions: Sequence[ChoiceQuestion],
    prefixes: Sequence[Prefix | None],
    file: str,
    on_scored: Callable[[int], None],
) -> Choices:
    """Every question as each of ``prefixes`` scores it; ``on_scored`` is told how many times one was, of all times.

    A question that is longer than the model reads loses its beginning.
    """
    ids = letter_ids(tokenizer)
    begin = tokenizer.get_prefix_tokens()
    room = model.config.seq_length - len(begin)
    prompts = [begin + tokenizer.encode_prompt(question.prompt())[len(begin) :][-room:] for question in questions]
    found: list[list[tuple[float, ...]]] = [[() for _ in questions] for _ in prefixes]
    done = 0
    for contender, prefix in enumerate(prefixes):
        for place, log_shares in next_log_shares(model, prompts, prefix):
            found[contender][place] = _letter_shares(log_shares, ids)
            done += 1
            on_scored(done)
    rows = [
        ChoiceRow.model_validate(
            {
                **{"subject": question.subject, "question": question.question, "answer": LETTERS[question.answer]},
                "shares": tuple(shares[place] for shares in found),
            }
        )
        for place, question in enumerate(questions)
    ]
    subjects = [
        _summed(name, [row for row in rows if row.subject == name], len(prefixes)) for name in subjects_of(questions)
    ]
    return Choices(file=file, rows=tuple(rows), total=_summed("", rows, len(prefixes)), subjects=tuple(subjects))


def _letter_shares(log_shares: Tensor, ids: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    return tuple(float(torch.logsumexp(log_shares[list(letter)], 0).exp()) for letter in ids)


def _summed(name: str, rows: Sequence[ChoiceRow], contenders: int) -> ChoiceSubject:
    scores = []
    for contender in range(contenders):
        right = sum(row.is_right(contender) for row in rows)
        letters = math.fsum(sum(row.shares[contender]) for row in rows) / len(rows)
        scores.append(ChoiceScore(right=right, accuracy=share_interval(right, len(rows)), letters=letters))
    return ChoiceSubject(name=name, questions=len(rows), scores=tuple(scores))
