"""How close an answer is to its reference: ROUGE-1/2/L over jieba's words, BLEU-4 over characters.

The numbers are the original's (rouge_chinese, nltk with smoothing method 3), a pair at a time, in percent. Knows no
model, no file and no page. One difference: an empty answer scores 0 and is flagged, where the original stops.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jieba
    from rouge_chinese import Rouge

DECIMALS = 4


@dataclass(frozen=True)
class Scores:
    """Scores of one answer, or the means of many, from 0 to 100. ``empty_predictions`` counts answers without text."""

    rouge_1: float
    rouge_2: float
    rouge_l: float
    bleu_4: float
    empty_predictions: int = 0

    def to_dict(self) -> dict[str, float]:
        """By the original's names."""
        return {"rouge-1": self.rouge_1, "rouge-2": self.rouge_2, "rouge-l": self.rouge_l, "bleu-4": self.bleu_4}


def score(prediction: str, reference: str) -> Scores:
    """Scores of one answer against its reference."""
    prediction_words, reference_words = _words(prediction), _words(reference)
    if not prediction_words.strip() or not reference_words.strip():
        return Scores(0.0, 0.0, 0.0, 0.0, empty_predictions=int(not prediction_words.strip()))
    rouge = _rouge().get_scores(prediction_words, reference_words)[0]
    return Scores(
        rouge_1=_percent(rouge["rouge-1"]["f"]),
        rouge_2=_percent(rouge["rouge-2"]["f"]),
        rouge_l=_percent(rouge["rouge-l"]["f"]),
        bleu_4=_percent(_bleu_4(prediction, reference)),
    )


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of every score; all 0 where there are none."""
    count = max(len(scores), 1)
    return Scores(
        rouge_1=sum(item.rouge_1 for item in scores) / count,
        rouge_2=sum(item.rouge_2 for item in scores) / count,
        rouge_l=sum(item.rouge_l for item in scores) / count,
        bleu_4=sum(item.bleu_4 for item in scores) / count,
        empty_predictions=sum(item.empty_predictions for item in scores),
    )


def word_boundaries(text: str) -> frozenset[int]:
    """Between which characters jieba's words begin and end, the ends of the text among them."""
    return frozenset(accumulate(map(len, _segmenter().cut(text)), initial=0))


def _percent(share: float) -> float:
    return round(share * 100, DECIMALS)


def _bleu_4(prediction: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method3
    return float(sentence_bleu([list(reference)], list(prediction), smoothing_function=smoothing))


def cut_words(text: str) -> list[str]:
    """The words of a text, Chinese or not; joined, they are the text."""
    return list(_segmenter().cut(text))


def _words(text: str) -> str:
    return " ".join(cut_words(text))


@cache
def _segmenter() -> jieba.Tokenizer:
    with warnings.catch_warnings():
        # jieba 0.42.1 finds its dictionary through pkg_resources, which warns that it is deprecated.
        warnings.simplefilter("ignore")
        import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()


@cache
def _rouge() -> Rouge:
    from rouge_chinese import Rouge

    return Rouge()
