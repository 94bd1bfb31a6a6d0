"""A sentence that says what rows ask for: their own instruction where they begin with one, else what they look like.

Knows rows; asks no model. A prefix starts from the sentence, and a person may change it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from training.data.encoding import Example

LOOKED_AT = 200
# So many of the rows must begin alike for that to be their instruction.
ALIKE_SHARE = 0.6
LEAST_INSTRUCTION_CHARACTERS, MOST_INSTRUCTION_CHARACTERS = 6, 200
MOST_LABELS, LONGEST_LABEL_CHARACTERS = 20, 20
MUCH_SHORTER, MUCH_LONGER = 0.4, 1.5
ATTRIBUTES = re.compile(r"^[^#*]{1,20}#[^#*]+(\*[^#*]{1,20}#[^#*]+)+$")
SENTENCE_END = re.compile(r"[。：:！!？?\n.]")


def propose_sentence(examples: Sequence[Example]) -> str:
    """What the examples ask for, in the language of their answers."""
    stride = max(1, len(examples) // LOOKED_AT)
    rows = examples[::stride]
    if not _has_attributes(rows) and (own := _common_beginning([row.prompt for row in rows])):
        return own
    sentence = next(words for fits, words in _KINDS if fits(rows))
    if callable(sentence):
        return sentence(rows)
    return sentence[1] if is_chinese([row.response for row in rows]) else sentence[0]


def _common_beginning(prompts: Sequence[str]) -> str:
    """What most prompts begin with, up to the end of a sentence; empty where they begin as they like."""
    heads = Counter(head for prompt in prompts if (head := _first_sentence(prompt)))
    if heads:
        head, count = heads.most_common(1)[0]
        if count > 1 and count >= ALIKE_SHARE * len(prompts):
            return head
    if len(prompts) < 2:
        return ""
    first, last = min(prompts), max(prompts)  # in order of characters, these two have least in common
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = "".join(character for character, _ in alike).strip()
    return shared if LEAST_INSTRUCTION_CHARACTERS <= len(shared) <= MOST_INSTRUCTION_CHARACTERS else ""


def _first_sentence(prompt: str) -> str:
    end = SENTENCE_END.search(prompt)
    head = prompt[: end.end()].strip() if end else ""
    return head if LEAST_INSTRUCTION_CHARACTERS <= len(head) <= MOST_INSTRUCTION_CHARACTERS else ""


def is_chinese(texts: Sequence[str]) -> bool:
    characters = "".join(texts)
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in characters)
    return chinese > 0.2 * len(characters)


def _share(rows: Sequence[Example], holds: Callable[[Example], bool]) -> float:
    return sum(map(holds, rows)) / len(rows)


def _has_attributes(rows: Sequence[Example]) -> bool:
    return _share(rows, lambda row: bool(ATTRIBUTES.match(row.prompt.strip()))) >= ALIKE_SHARE


def _labels(rows: Sequence[Example]) -> list[str]:
    """The few answers that there are, the most common first; none where answers are many or long."""
    counts = Counter(row.response.strip() for row in rows)
    few = len(counts) <= min(MOST_LABELS, len(rows) // 3)
    return (
        [label for label, _ in counts.most_common()]
        if few and max(map(len, counts)) <= LONGEST_LABEL_CHARACTERS
        else []
    )


def _classify(rows: Sequence[Example]) -> str:
    labels = _labels(rows)
    if is_chinese(["".join(labels)]):
        return f"请判断下面的内容属于哪一类，只回答类别：{'、'.join(labels)}。"
    return f"Say which of these the text is, and nothing else: {', '.join(labels)}."


def _translates(into_chinese: bool) -> Callable[[Sequence[Example]], bool]:
    def fits(rows: Sequence[Example]) -> bool:
        prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
        return is_chinese(prompts) != into_chinese and is_chinese(responses) == into_chinese

    return fits


def _length_ratio(rows: Sequence[Example]) -> float:
    return sum(len(row.response) for row in rows) / max(sum(len(row.prompt) for row in rows), 1)


_KINDS: tuple[tuple[Callable[[Sequence[Example]], bool], tuple[str, str] | Callable[[Sequence[Example]], str]], ...] = (
    (lambda rows: bool(_labels(rows)), _classify),
    (
        _has_attributes,
        (
            "Write an appealing advertisement for the product with these attributes.",
            "请根据下面的商品属性写一段吸引人的广告文案。",
        ),
    ),
    (_translates(True), ("Translate the text below into Chinese.", "请把下面的内容翻译成中文。")),
    (_translates(False), ("Translate the text below into English.", "请把下面的内容翻译成英文。")),
    (
        lambda rows: _length_ratio(rows) <= MUCH_SHORTER,
        ("Summarise the text below in a few words.", "请用简短的话概括下面的内容。"),
    ),
    (
        lambda rows: _length_ratio(rows) >= MUCH_LONGER,
        ("Write a full answer to what is given below.", "请根据下面的内容写一段完整的回答。"),
    ),
    (lambda rows: True, ("Answer the question below.", "请回答下面的问题。")),
)
