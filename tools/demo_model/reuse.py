"""How often a reader of a few texts meets the same phrase twice."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence

PHRASE_CHARACTERS = 6
PUNCTUATION = "，。：；？！、\n"


def phrases_of(text: str, own_words: Collection[str]) -> set[str]:
    """Every run of six characters that holds no punctuation and none of the text's own attribute words."""
    words = sorted((*own_words, *PUNCTUATION), key=len, reverse=True)
    runs = re.split("|".join(map(re.escape, words)), text)
    return {run[start : start + PHRASE_CHARACTERS] for run in runs for start in range(len(run) - PHRASE_CHARACTERS + 1)}


def share_of_repeating_groups(phrases: Sequence[set[str]], size: int, groups: int, rng: random.Random) -> float:
    """The share of random groups of ``size`` texts in which some phrase occurs twice."""
    repeating = 0
    for _ in range(groups):
        chosen = rng.sample(phrases, size)
        repeating += len(set[str]().union(*chosen)) < sum(map(len, chosen))
    return repeating / groups
