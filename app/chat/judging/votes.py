"""Votes between two answers, counted a pair of contestants; and how often each wins, with how sure that is.

A tally belongs to the browser of who voted: a vote costs the server nothing, so everybody may vote, and nobody can fill
its disk or outvote its operator. Ties are counted and are no part of a win rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from app.chat.conversation import Count
from training.probes.intervals import wilson_interval

Vote = Literal["left", "right", "tie"]
MOST_PAIRS = 200  # what a browser keeps


@dataclass
class Pair:
    """How often one of two contestants won against the other; ``first`` sorts before ``second``."""

    first: Annotated[str, Field(max_length=300)]
    second: Annotated[str, Field(max_length=300)]
    first_wins: Count = 0
    second_wins: Count = 0
    ties: Count = 0


@dataclass(frozen=True)
class Standing:
    """One contestant against all that it met."""

    who: str
    against: tuple[str, ...]
    won: int
    lost: int
    ties: int

    @property
    def rate(self) -> float | None:
        """The share of decided votes that it won; None where all were ties."""
        decided = self.won + self.lost
        return self.won / decided if decided else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the rate lies with 95 % confidence."""
        decided = self.won + self.lost
        return wilson_interval(self.won, decided) if decided else None


@dataclass
class Tally:
    """All votes of a browser."""

    pairs: list[Pair] = field(default_factory=list)

    def count(self, left: str, right: str, vote: Vote) -> None:
        """One more vote. Of too many pairs, the one that was voted on least lately is forgotten."""
        first, second = sorted((left, right))
        found = next((pair for pair in self.pairs if (pair.first, pair.second) == (first, second)), None)
        pair = found or Pair(first, second)
        winner = {"left": left, "right": right}.get(vote)
        pair.first_wins += winner == first
        pair.second_wins += winner == second
        pair.ties += winner is None
        self.pairs = [*(other for other in self.pairs if other is not pair), pair][-MOST_PAIRS:]

    def standings(self) -> list[Standing]:
        """Everybody who was voted on, the surest winner first."""
        met: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        for pair in self.pairs:
            met[pair.first].append((pair.second, pair.first_wins, pair.second_wins, pair.ties))
            met[pair.second].append((pair.first, pair.second_wins, pair.first_wins, pair.ties))
        found = [_standing(who, rows) for who, rows in met.items()]
        return sorted(found, key=lambda standing: standing.interval or (-1.0, 0.0), reverse=True)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Tally:
        """Reads :meth:`to_dict`'s data back; anything else in a browser's store gives an empty tally."""
        try:
            return cls(_PAIRS.validate_python(data.get("pairs") if isinstance(data, dict) else None)[-MOST_PAIRS:])
        except ValidationError:
            return cls()


def _standing(who: str, rows: Iterable[tuple[str, int, int, int]]) -> Standing:
    against, won, lost, ties = zip(*rows, strict=True)
    return Standing(who, tuple(against), sum(won), sum(lost), sum(ties))


_PAIRS = TypeAdapter(list[Pair])
