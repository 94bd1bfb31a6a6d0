"""Ids that come one by one, as text. Knows a tokenizer's pieces; knows no engine and no conversation."""

from __future__ import annotations

import codecs
import re

from chatglm2.text.tokenizer import ChatGLMTokenizer

REPLACEMENT = "\ufffd"
# How Python's decoder marks a byte that belongs to no character.
_STRAY_BYTE = re.compile("[\udc80-\udcff]")


class IncrementalDecoder:
    """Turns ids that come one by one into text, without tearing a character or delaying one.

    All pieces together are what ``decode_ids`` makes of all ids: a byte that belongs to no character is one U+FFFD, and
    what follows it is kept.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        self._tokenizer = tokenizer
        # SentencePiece drops the space that a text starts with: what an id adds shows only behind one before it.
        self._before: list[int] = []
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")

    def push(self, token_id: int) -> str:
        """The text that became certain with ``token_id``; empty while a character is incomplete."""
        byte = self._tokenizer.byte_of(token_id)
        if byte is not None:
            self._before = [token_id]
            return self._read(bytes([byte]))
        shown = len(self._tokenizer.decode_ids(self._before))
        added = self._tokenizer.decode_ids([*self._before, token_id])[shown:]
        if not added:  # a special token, which has no text; or the space that a text starts with
            self._before = [*self._before, token_id] if not shown else self._before
            return ""
        self._before = [token_id] if added.strip() else [*self._before, token_id][-2:]
        return self.flush() + added

    def flush(self) -> str:
        """What is still held back, at the end."""
        return self._read(b"", final=True)

    def _read(self, content: bytes, *, final: bool = False) -> str:
        return _STRAY_BYTE.sub(REPLACEMENT, self._bytes.decode(content, final))
