"""What the page's handlers ask of the library: a prefix's card, a changed one, and prefixes from elsewhere.

Knows the sources that the panes choose from, which are read again after each change. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.chat.sources import Source, SourceLibrary
from chatglm2.errors import PrefixError
from training.library.archive import take_zip
from training.library.base import note_on_base
from training.library.bundle import current_card
from training.library.card import Card, split_tags, write_card
from training.library.entry import Entry
from training.library.hub import pull
from training.library.shelf import Shelf
from training.runs.checkpoints import CheckpointInfo


@dataclass(frozen=True)
class Typed:
    """A card's fields as somebody typed them."""

    name: str = ""
    tags: str = ""
    license: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Shown:
    """A card with what is known of its prefix now.

    Attributes:
        source: the prefix.
        entry: the same with its card as it lies there.
        card: with today's facts.
        caution: what is to be known where it was trained on other weights than those that are served.
    """

    source: Source
    entry: Entry
    card: Card
    caution: tuple[str, str] | None


class LibraryService:
    """One instance serves everybody; ``weights`` tells the fingerprint of those that are served."""

    def __init__(self, output: Path, sources: SourceLibrary, weights: Callable[[], str]) -> None:
        self._shelf = Shelf(output)
        self._sources = sources
        self._weights = weights

    def show(self, key: str) -> Shown:
        """The card of the prefix with ``key``.

        Raises:
            PrefixError: there is none any more.
        """
        source, info, entry = self._find(key)
        card = current_card(info)
        return Shown(source, entry, card, note_on_base(card.facts, self._weights()))

    def write(self, key: str, typed: Typed) -> Card:
        """Change the card of a prefix.

        Raises:
            ChatGLMError: it is gone, something is too long, the card there is broken, or it cannot be written.
        """
        _, info, entry = self._find(key)
        if entry.problem is not None:  # not replaced by one that has less
            raise entry.problem
        changes = {"name": typed.name, "tags": split_tags(typed.tags), "license": typed.license, "notes": typed.notes}
        card = current_card(info).edited(**changes)
        write_card(info.path, card)
        self._sources.look_again()
        return card

    def pull(self, repository: str) -> Source:
        """Take a prefix from Hugging Face, or the mirror that HF_ENDPOINT names.

        Raises:
            ChatGLMError: the hub does not deliver, or what it has is refused.
        """
        return self._taken(pull(repository.strip(), self._shelf))

    def take(self, file: str) -> Source:
        """Take the prefix of a zip that was uploaded, which is removed then.

        Raises:
            ChatGLMError: it holds none that can be used.
        """
        try:
            return self._taken(take_zip(self._shelf, Path(file)))
        finally:
            Path(file).unlink(missing_ok=True)

    def _taken(self, place: Path) -> Source:
        self._sources.look_again()
        return self._sources.find(str(place))

    def _find(self, key: str) -> tuple[Source, CheckpointInfo, Entry]:
        source = self._sources.find(key)
        if source.info is None or source.entry is None:
            raise PrefixError("The base model has no card. Choose a checkpoint.", "基座模型没有卡片，请选择检查点。")
        return source, source.info, source.entry
