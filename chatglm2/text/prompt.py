"""A conversation as a prompt that fits into the context, and a reply as it is shown.

Knows a tokenizer and limits; pure. Knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatglm2.errors import PromptError
from chatglm2.text.tokenizer import ChatGLMTokenizer

# SentencePiece's own limit: a piece has at most 16 characters, so a longer text cannot fit whatever it says.
LONGEST_PIECE_CHARACTERS = 16
TRAINING_TIME_MARK, TRAINING_TIME = "[[训练时间]]", "2023年"


class FittedPrompt(NamedTuple):
    """A conversation's ids, and how many of its oldest rounds were left out to keep room for the reply."""

    ids: list[int]
    dropped_rounds: int


def fit_prompt(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Sequence[tuple[str, str]],
    *,
    max_length: int,
    max_new_tokens: int,
) -> FittedPrompt:
    """The prompt for ``query`` with as many of the newest rounds as fit.

    The reply is given what it may use, up to half of ``max_length``; a long question may take some of that.

    Raises:
        PromptError: ``query`` is empty, or cannot fit by itself whatever it says.
    """
    if not query.strip():
        raise PromptError("The question is empty. Type something first.", "问题是空的，请先输入内容。")
    if len(query) > LONGEST_PIECE_CHARACTERS * max_length:
        raise PromptError(
            f"The question has {len(query):,} characters, far more than the context of {max_length:,} tokens can hold. "
            "Shorten it.",
            f"问题有 {len(query):,} 个字符，远远超出 {max_length:,} 个 token 的上下文。请缩短问题。",
        )
    room = max_length - min(max_new_tokens, max_length // 2)
    kept = _newest_rounds(tokenizer, history, room)
    while True:
        ids = tokenizer.encode_prompt(query, kept)
        if len(ids) <= room or not kept:
            return FittedPrompt(ids, len(history) - len(kept))
        kept = kept[1:]


def _newest_rounds(tokenizer: ChatGLMTokenizer, history: Sequence[tuple[str, str]], room: int) -> list[tuple[str, str]]:
    """The newest rounds that fit into ``room`` tokens by themselves; cheap, each round is encoded once."""
    kept: list[tuple[str, str]] = []
    for question, answer in reversed(history):
        room -= len(tokenizer.encode_text(question)) + len(tokenizer.encode_text(answer))
        if room < 0:
            break
        kept.insert(0, (question, answer))
    return kept


def clean_reply(text: str) -> str:
    """What the original does to every reply: strip it, and fill in the training date."""
    return text.strip().replace(TRAINING_TIME_MARK, TRAINING_TIME)
