"""Where two answers differ, word by word."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

from training.evaluation.metrics import cut_words

Pieces = tuple[tuple[str, bool], ...]  # pieces of a text in order, and whether the other text lacks them
# Beyond, words that are everywhere are not matched one by one: that would take seconds.
EXACT_WORDS = 1000
REMEMBERED = 256  # pairs: a page shows its answers anew with every question


@lru_cache(REMEMBERED)
def differences(left: str, right: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces; joined, the pieces are the text."""
    words = cut_words(left), cut_words(right)
    matcher = SequenceMatcher(None, *words, autojunk=max(map(len, words)) > EXACT_WORDS)
    found: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        pieces = "".join(words[0][start:end]), "".join(words[1][other_start:other_end])
        for side, piece in zip(found, pieces, strict=True):
            if piece:
                side.append((piece, kind != "equal"))
    return tuple(found[0]), tuple(found[1])
