"""How a file's rows divide over the groups of an attribute, and the weights that would even them.

Knows rows and words. Says what is mentioned, not who is meant: a row counts for a group if one of its words is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from training.data.encoding import Example
from training.evaluation.metrics import word_boundaries
from training.probes.attributes import Attribute


@dataclass(frozen=True)
class GroupCount:
    """A group's rows: all that mention it, and those that mention no other.

    Attributes:
        name: of the group.
        rows: that mention it.
        alone: that mention it and no other.
        weight: of a row that mentions it alone, so that every group's weigh as much together; None without such rows.
    """

    name: str
    rows: int
    alone: int
    weight: float | None


@dataclass(frozen=True)
class Balance:
    """An attribute in a file: its groups, and how many rows mention several of them, or none."""

    attribute: str
    groups: tuple[GroupCount, ...]
    several: int
    none: int

    @property
    def is_mentioned(self) -> bool:
        """Whether any row mentions any group."""
        return any(group.rows for group in self.groups)

    def share(self, group: GroupCount) -> float:
        """A group's part of the rows that mention one group alone, from 0 to 1."""
        return group.alone / max(sum(other.alone for other in self.groups), 1)


def count_balance(examples: Sequence[Example], attributes: Sequence[Attribute]) -> list[Balance]:
    """How the rows divide over each attribute's groups.

    Weights are inverse to how often a group is mentioned alone, and those of all such rows have the mean 1, so that a
    weighted loss is as large as before. Rows that mention several groups, or none, keep the weight 1.
    """
    mentions = [_mentioned(example, attributes) for example in examples]
    return [_divide(attribute, [found[place] for found in mentions]) for place, attribute in enumerate(attributes)]


def _divide(attribute: Attribute, mentions: Sequence[frozenset[str]]) -> Balance:
    rows = Counter(name for groups in mentions for name in groups)
    alone = Counter(name for groups in mentions if len(groups) == 1 for name in groups)
    even = sum(alone.values()) / max(len(alone), 1)
    groups = tuple(
        GroupCount(name, rows[name], alone[name], even / alone[name] if alone[name] else None)
        for name in attribute.groups
    )
    return Balance(
        attribute.name,
        groups,
        several=sum(len(found) > 1 for found in mentions),
        none=sum(not found for found in mentions),
    )


def _mentioned(example: Example, attributes: Sequence[Attribute]) -> list[frozenset[str]]:
    """The groups of each attribute that a row mentions."""
    rounds = (part for turn in example.history for part in turn)
    text = "\n".join((*rounds, example.prompt, example.response)).casefold()
    words = {word.casefold() for attribute in attributes for group in attribute.groups.values() for word in group}
    there = {word for word in words if word in text}
    boundaries = word_boundaries(text) if any(map(_stands_alone, there)) else frozenset()
    found = {word for word in there if not _stands_alone(word) or _stands_as_word(word, text, boundaries)}
    return [
        frozenset(name for name, group in attribute.groups.items() if any(word.casefold() in found for word in group))
        for attribute in attributes
    ]


def _stands_alone(word: str) -> bool:
    """Whether a word counts only where it is one: 他 is no mention in 其他, nor "he" in "the"."""
    return len(word) == 1 or word.isascii()


def _stands_as_word(word: str, text: str, boundaries: Collection[int]) -> bool:
    start = text.find(word)
    while start >= 0:
        if start in boundaries and start + len(word) in boundaries:
            return True
        start = text.find(word, start + 1)
    return False
