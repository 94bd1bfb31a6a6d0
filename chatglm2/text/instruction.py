"""A sentence as exactly so many ids, to stand before every conversation.

Knows a tokenizer; knows no model and no prefix.
"""

from __future__ import annotations

from chatglm2.text.tokenizer import ChatGLMTokenizer

LINES_AFTER = 2


def frame_instruction(tokenizer: ChatGLMTokenizer, text: str, length: int) -> list[int]:
    """``length`` ids: ``[gMASK] sop``, empty lines as many as it takes, the text, and an empty line behind it.

    Empty lines say nothing, so a long prefix disturbs other questions less than a text that is repeated in it
    (docs/training.md). A text that is too long is cut at its end.
    """
    start = tokenizer.get_prefix_tokens()
    line = tokenizer.encode_text("\n")[-1]
    text_ids = [*tokenizer.encode_text(text.strip()), *[line] * LINES_AFTER]
    room = max(length - len(start), 0)
    lines = [line] * max(room - len(text_ids), 0)
    return [*start, *lines, *text_ids[:room]][:length]
