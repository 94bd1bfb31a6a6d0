"""Ids that come one by one, as text. Knows a tokenizer's ``decode_ids``; knows no engine and no conversation."""

from __future__ import annotations

from chatglm2.text.tokenizer import ChatGLMTokenizer

REPLACEMENT = "\ufffd"
# A UTF-8 character has at most four bytes, each shown as one replacement until it is whole: more is truly broken text.
LONGEST_INCOMPLETE_CHARACTER = 3


class IncrementalDecoder:
    """Turns ids that come one by one into text, without tearing a character or delaying one.

    Only a window of the last ids is decoded again: SentencePiece drops a leading space, so the window keeps the ids of
    the last step in front, and the new text is the difference.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window_start = 0
        self._emitted_end = 0

    def push(self, token_id: int) -> str:
        """The text that became certain with ``token_id``; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._new_text()
        held = len(text) - len(text.rstrip(REPLACEMENT))
        if 0 < held <= LONGEST_INCOMPLETE_CHARACTER:
            return ""
        return self._emit(text)

    def flush(self) -> str:
        """What is still held back, at the end."""
        return self._emit(self._new_text())

    def _new_text(self) -> str:
        before = self._tokenizer.decode_ids(self._ids[self._window_start : self._emitted_end])
        return self._tokenizer.decode_ids(self._ids[self._window_start :])[len(before) :]

    def _emit(self, text: str) -> str:
        # The window must start at a token that shows text: a lone dummy space would be dropped twice.
        if text:
            self._window_start = self._emitted_end
            self._emitted_end = len(self._ids)
        return text
