"""A prefix with its card and where it came from: how it is called, and whether somebody who searches means it.

Knows no directory of them; `shelf.py` does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.library.card import Card, CardError, card_file, read_card
from training.runs.checkpoints import CheckpointInfo

# Beside a prefix that came from elsewhere.
ORIGIN_FILE = "source.json"
Text = Annotated[str, Field(max_length=300)]


class Origin(BaseModel):
    """Where a prefix came from: a repository of a hub at a revision, or a zip by its name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["hub", "zip"]
    name: Text
    hub: Text = ""
    revision: Text = ""
    taken_at: datetime | None = None
    card_sha256: Text = ""


@dataclass(frozen=True)
class Entry:
    """A prefix with its card. ``problem`` is why its card cannot be read, ``origin`` None for one trained here."""

    info: CheckpointInfo
    card: Card | None = None
    problem: CardError | None = None
    origin: Origin | None = None

    @property
    def place(self) -> str:
        """Run and checkpoint."""
        return f"{self.info.run_name} / {self.info.path.name}"

    @property
    def name(self) -> str:
        """What people call it, or run and checkpoint."""
        return (self.card.name if self.card else "") or self.place

    @property
    def tags(self) -> tuple[str, ...]:
        return self.card.tags if self.card else ()

    def matches(self, words: str, tags: Iterable[str] = ()) -> bool:
        """Whether every word is somewhere in what is known of it, and it has every tag."""
        own = {folded(tag) for tag in self.tags}
        if not {folded(tag) for tag in tags} <= own:
            return False
        text = folded(" ".join(self._texts()))
        return all(word in text for word in folded(words).split())

    def _texts(self) -> Iterator[str]:
        card = self.card or Card()
        yield from (self.place, card.name, *card.tags, card.notes, card.license, card.facts.data_file)
        yield from (card.facts.base_model, self.info.base_model, str(self.info.settings.get("train_file") or ""))
        yield self.origin.name if self.origin else ""


def describe(info: CheckpointInfo, origin: Origin | None = None) -> Entry:
    """A checkpoint with its card; one that cannot be read is named and passed over."""
    try:
        return Entry(info, read_card(info.path), origin=origin)
    except CardError as error:
        return Entry(info, problem=error, origin=origin)


class Descriptions:
    """Cards as they were read last: many look every second at what hardly ever changes."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, int], Entry]] = {}

    def describe(self, info: CheckpointInfo, origin: Origin | None = None) -> Entry:
        """What `describe` says; a card that has not changed is not read again."""
        stamp = _stamp(card_file(info.path))
        known = self._read.get(info.path)
        if stamp is None or known is None or known[0] != stamp:
            entry = describe(info, origin)
            if stamp is not None:
                self._read[info.path] = (stamp, entry)
            return entry
        return Entry(info, known[1].card, known[1].problem, origin)


def tags_of(entries: Iterable[Entry]) -> list[str]:
    """All tags, those of most prefixes first."""
    counts: dict[str, int] = {}
    for entry in entries:
        for tag in entry.tags:
            counts[tag] = counts.get(tag, 0) + 1
    return sorted(counts, key=lambda tag: (-counts[tag], tag))


def folded(text: str) -> str:
    """Text as it is compared: upper and lower case, full and half width are one."""
    return unicodedata.normalize("NFKC", text).casefold()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
