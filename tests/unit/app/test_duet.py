"""Two panes at once: what is cancelled stops, whenever that is asked, and a failure speaks the reader's language.

The session is a stand-in, because when its parts happen is what these tests are about.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from app.chat.conversation import PANES, Conversation
from app.chat.duet import Voice, play
from chatglm2.errors import PromptError
from chatglm2.sampling import SamplingParams

WAIT_SECONDS = 5.0


class SlowReply:
    """Says one word, then waits to be cancelled."""

    token_count, seconds, dropped_rounds, finish_reason, place_in_line = 1, 0.1, 0, "cancelled", 0

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[str]:
        yield "word"
        self.cancelled.wait(WAIT_SECONDS)

    def cancel(self) -> None:
        self.cancelled.set()


class ReplyInLine(SlowReply):
    """Says nothing while it waits for its turn."""

    def __iter__(self) -> Iterator[str]:
        self.cancelled.wait(WAIT_SECONDS)
        yield from ()


class SlowSession:
    """Gives a reply once it may."""

    def __init__(self, kind: type[SlowReply] = SlowReply) -> None:
        self._kind = kind
        self.may_reply = threading.Event()
        self.asked = threading.Barrier(len(PANES) + 1, timeout=WAIT_SECONDS)
        self.replies: list[SlowReply] = []

    def stream(self, *_: object, **__: object) -> SlowReply:
        self.asked.wait()
        self.may_reply.wait(WAIT_SECONDS)
        self.replies.append(self._kind())
        return self.replies[-1]


class FailingSession:
    def stream(self, *_: object, **__: object) -> SlowReply:
        raise PromptError("Too long.", "太长了。")


def begin(session: Any, language: str = "en") -> tuple[Conversation, Generator[None]]:
    conversation = Conversation()
    conversation.ask("q")
    voices = {pane: Voice(pane, None, SamplingParams(), 1) for pane in PANES}
    return conversation, play(session, conversation, 0, voices, language)


def wait_for(events: list[threading.Event]) -> bool:
    return all(event.wait(WAIT_SECONDS / 2) for event in events)


def test_stop_cancels_both_replies() -> None:
    session = SlowSession()
    session.may_reply.set()
    conversation, beats = begin(session)
    next(beats)
    session.asked.wait()
    conversation.stop_requested = True
    asked_at = time.monotonic()
    for _ in beats:
        pass
    assert time.monotonic() - asked_at < WAIT_SECONDS / 2
    assert len(session.replies) == 2 and all(reply.cancelled.is_set() for reply in session.replies)


def test_a_place_in_line_is_shown_as_it_changes() -> None:
    session = SlowSession(ReplyInLine)
    session.may_reply.set()
    conversation, beats = begin(session)
    next(beats)
    session.asked.wait()
    answers = conversation.rounds[0].answers.values()
    for place in (3, 1):
        ReplyInLine.place_in_line = place
        while {answer.place_in_line for answer in answers} != {place}:
            next(beats)
    conversation.stop_requested = True
    assert list(beats) == [] and {answer.place_in_line for answer in answers} == {0}


def test_a_tab_closed_before_the_reply_began_cancels_it_all_the_same() -> None:
    session = SlowSession()
    _, beats = begin(session)
    next(beats)
    session.asked.wait()
    beats.close()
    session.may_reply.set()
    panes = [thread for thread in threading.enumerate() if thread.name.startswith("pane-")]
    for thread in panes:
        thread.join(WAIT_SECONDS / 2)
    assert len(session.replies) == 2
    assert wait_for([reply.cancelled for reply in session.replies])


@pytest.mark.parametrize(("language", "said"), [("en", "Too long."), ("zh", "太长了。")])
def test_a_pane_that_fails_says_so_in_the_readers_language(language: str, said: str) -> None:
    conversation, beats = begin(FailingSession(), language)
    for _ in beats:
        pass
    assert {answer.error for answer in conversation.rounds[0].answers.values()} == {said}
