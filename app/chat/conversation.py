"""A conversation of two panes: one question a round, one answer a pane.

Knows rounds, answers and where an answer came from. Knows neither Gradio nor the engine, so every change (undo, edit,
retry) can be tested as plain data. A conversation belongs to one browser tab.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

PANES = ("left", "right")
# Browsers keep about 5 MB a site, encrypted and encoded text takes several bytes a character.
STORED_CHARACTERS = 400_000
INTERRUPTED = "interrupted"  # how an answer ended that a reload or a restart cut off
NAME_CHARACTERS = 60
MOST_SAMPLES = 4
# What a browser or a file may hold where a number is expected: one that can be counted and divided with.
Count = Annotated[int, Field(ge=0, le=2**31)]
Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


@dataclass
class Answer:
    """What one pane said in one round, and how it came about."""

    text: str = ""
    source: str = ""  # the chip: "base", or run, step, prefix length and hash
    who: str = ""  # the same in no language, by which answers of one model are found
    strengths: list[Amount] = field(default_factory=list)  # of the prefixes that acted, none for the base
    seed: Count | None = None
    tokens: Count = 0
    seconds: Amount = 0.0
    dropped_rounds: Count = 0
    stands_alone: bool = False  # answered without the earlier rounds, on request
    finish_reason: str = ""
    place_in_line: int = 0  # 1 if it is computed next; 0 once it is, or has ended
    error: str = ""
    liked: bool = False  # good enough to learn from
    edited: bool = False  # a reader put it right

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Round:
    question: str
    answers: dict[str, Answer] = field(default_factory=lambda: {pane: Answer() for pane in PANES})
    blind: bool = False  # who is who is shown after a vote
    swapped: bool = False  # each pane shows the other one's answer, so that a voter cannot know
    vote: Literal["", "left", "right", "tie"] = ""  # for what the panes showed
    samples: Annotated[list[Answer], Field(max_length=MOST_SAMPLES)] = field(default_factory=list)  # by other seeds

    def side(self, pane: str) -> str:
        """Whose answer ``pane`` shows."""
        return PANES[1 - PANES.index(pane)] if self.swapped else pane

    @property
    def characters(self) -> int:
        return len(self.question) + sum(len(answer.text) for answer in (*self.answers.values(), *self.samples))


@dataclass
class View:
    """How a reader looks at a conversation; it stays when another conversation comes onto the page."""

    differences: bool = False  # words that the other answer lacks are marked
    blind: bool = False  # who answers is a secret until the vote


@dataclass
class Conversation:
    rounds: list[Round] = field(default_factory=list)
    name: str = ""  # as a person called it; empty while nobody has
    key: str = field(default="", compare=False)  # what a shelf finds it by
    # Set while answers stream; Stop sets `stop_requested`, and the stream ends itself at its next beat.
    streaming: bool = False
    stop_requested: bool = False
    view: View = field(default_factory=View, compare=False)
    begun: bool = False  # whether what the browser keeps was read

    def begin(self, saved: Any, heard: Any) -> bool:
        """Takes up what a browser kept, once; True for the caller that did it.

        A message may reach the server before the page's load event does, so whichever comes first begins.
        """
        if self.begun:
            return False
        self.begun = True
        kept = Conversation.from_dict(saved)
        self.rounds, self.name, self.key = kept.rounds, kept.name, kept.key
        self.take_up(heard)
        return True

    @property
    def title(self) -> str:
        """What to call it in a list: its name, or how its first question begins; empty where nothing was said."""
        begins = " ".join(self.rounds[0].question.split()) if self.rounds else ""
        return self.name or begins[:NAME_CHARACTERS]

    def rename(self, name: str) -> None:
        """Calls it ``name``, on one line and not too long; an empty one gives it back to its first question."""
        self.name = " ".join(name.split())[:NAME_CHARACTERS]

    def ask(self, question: str) -> Round:
        swapped = self.view.blind and bool(secrets.randbelow(2))
        self.rounds.append(Round(question, blind=self.view.blind, swapped=swapped))
        return self.rounds[-1]

    def hides(self, index: int) -> bool:
        """Whether round ``index`` waits for a blind vote; the next question ends that as well."""
        entry = self.rounds[index]
        return self.view.blind and entry.blind and not entry.vote and index == len(self.rounds) - 1

    def undo(self) -> str:
        """Takes the last round back and returns its question, ready to be edited; empty when there is none."""
        return self.rounds.pop().question if self.rounds else ""

    def edit(self, index: int, question: str) -> Round:
        """Asks ``question`` in the place of round ``index``; what followed is forgotten, in both panes."""
        del self.rounds[index:]
        return self.ask(question)

    def retry(self, index: int, panes: tuple[str, ...]) -> Round:
        """Empties the answers of ``panes`` in round ``index`` so that they can be given again.

        Later rounds rest on both answers, so they go.
        """
        del self.rounds[index + 1 :]
        for pane in panes:
            self.rounds[index].answers[pane] = Answer()
        return self.rounds[index]

    def history(self, pane: str, before: int) -> list[tuple[str, str]]:
        """What ``pane`` remembers when round ``before`` is asked: rounds that failed in this pane are left out."""
        return [
            (entry.question, entry.answers[pane].text)
            for entry in self.rounds[:before]
            if entry.answers[pane].text and not entry.answers[pane].error
        ]

    def to_dict(self, character_limit: int = STORED_CHARACTERS) -> dict[str, Any]:
        """The newest rounds as plain data, as many as the browser's own storage takes."""
        kept: list[dict[str, Any]] = []
        for entry in reversed(self.rounds):
            character_limit -= entry.characters
            if character_limit < 0:
                break
            kept.insert(0, asdict(entry))
        return {"name": self.name, "key": self.key, "rounds": kept}

    @classmethod
    def from_dict(cls, data: Any) -> Conversation:
        """Reads :meth:`to_dict`'s data back; a browser's store is not ours to trust, so anything else gives none."""
        if not isinstance(data, dict):
            return cls()
        conversation = cls(_read_rounds(data.get("rounds")), key=_read_text(data.get("key")))
        conversation.rename(_read_text(data.get("name")))
        return conversation

    def take_up(self, heard: Any) -> None:
        """After a reload or a restart: the last round as far as it was heard, if `last_round` gave it then.

        Answers that never came to an end are marked so that they can be asked for again.
        """
        if not self.rounds:
            return
        found = _read_rounds([heard])
        if found and found[0].question == self.rounds[-1].question:
            self.rounds[-1] = found[0]
        for answer in (*self.rounds[-1].answers.values(), *self.rounds[-1].samples):
            if not answer.finish_reason and not answer.error:
                answer.finish_reason = INTERRUPTED

    def last_round(self) -> dict[str, Any] | None:
        """The last round as plain data, as far as it is answered."""
        return asdict(self.rounds[-1]) if self.rounds else None


def _read_rounds(data: Any) -> list[Round]:
    try:
        rounds = _ROUNDS.validate_python(data)
    except ValidationError:
        return []
    return rounds if all(set(entry.answers) == set(PANES) for entry in rounds) else []


def _read_text(data: Any) -> str:
    """A text that can be sent on; half a surrogate pair cannot."""
    try:
        return _TEXT.validate_python(data)
    except ValidationError:
        return ""


_TEXT = TypeAdapter(Annotated[str, Field(strict=True, max_length=200)])
_ROUNDS = TypeAdapter(list[Round])
