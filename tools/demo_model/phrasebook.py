"""A small template language: phrases that are woven anew every time.

``{a|b|}`` chooses one branch, ``<name>`` draws from a named list, ``$x`` is a variable of one character. Within one
text no item of a named list is drawn twice. Knows nothing of garments or chat.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PHRASES = Path(__file__).parent / "phrases"
_TOKEN = re.compile(r"<[^<>\s]+>|\$\w|[{|}]|[^<>${|}]+|.", re.DOTALL)


def load_phrases(name: str) -> dict[str, Any]:
    return tomllib.loads((PHRASES / f"{name}.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Choice:
    branches: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Reference:
    name: str


@dataclass(frozen=True)
class Variable:
    name: str


Node = str | Choice | Reference | Variable


@cache
def parse(template: str) -> tuple[Node, ...]:
    tokens = _TOKEN.findall(template)
    branches, end = _parse_branches(tokens, 0)
    if end != len(tokens) or len(branches) != 1:
        raise ValueError(f"unbalanced braces in the template {template!r}")
    return branches[0]


def _parse_branches(tokens: Sequence[str], position: int) -> tuple[tuple[tuple[Node, ...], ...], int]:
    branches: list[tuple[Node, ...]] = []
    nodes: list[Node] = []
    while position < len(tokens) and tokens[position] != "}":
        token = tokens[position]
        position += 1
        if token == "{":
            inner, position = _parse_branches(tokens, position)
            if position == len(tokens):
                raise ValueError(f"a brace is not closed in {''.join(tokens)!r}")
            nodes.append(Choice(inner))
            position += 1
        elif token == "|":
            branches.append(tuple(nodes))
            nodes = []
        elif token[0] == "<" and token[-1] == ">" and len(token) > 2:
            nodes.append(Reference(token[1:-1]))
        elif token[0] == "$" and len(token) == 2:
            nodes.append(Variable(token[1]))
        else:
            nodes.append(token)
    branches.append(tuple(nodes))
    return tuple(branches), position


@dataclass
class Weaver:
    """Expands templates for one text."""

    lists: Mapping[str, Sequence[str]]
    rng: random.Random
    drawn: set[str] = field(default_factory=set)

    def draw(self, candidates: Sequence[str]) -> str:
        """An item that this text has not used yet, while there is one."""
        fresh = [candidate for candidate in candidates if candidate not in self.drawn]
        choice = self.rng.choice(fresh or candidates)
        self.drawn.add(choice)
        return choice

    def weave(self, template: str, variables: Mapping[str, str] | None = None) -> str:
        return "".join(self._expand(node, variables or {}) for node in parse(template))

    def _expand(self, node: Node, variables: Mapping[str, str]) -> str:
        match node:
            case str():
                return node
            case Variable(name):
                return variables[name]
            case Reference(name):
                return self.weave(self.draw(self.lists[name]), variables)
            case Choice(branches):
                return "".join(self._expand(inner, variables) for inner in self.rng.choice(branches))
