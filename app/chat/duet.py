"""Two panes answer one question at the same time, or one of them several times.

Knows the chat session and the conversation: one thread an answer writes what it hears into it, and one generator beats
twenty times a second for whoever shows it. Knows no Gradio.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.chat.conversation import Answer, Conversation
from chatglm2.errors import ChatGLMError

if TYPE_CHECKING:
    from chatglm2.model.prefix import Prefix
    from chatglm2.sampling import SamplingParams
    from chatglm2.serving.chat import ChatSession, ReplyStream

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.05
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Voice:
    """How one pane answers: under which name, with which prefix, choosing words how, and remembering or not."""

    chip: str
    prefix: Prefix | None
    sampling: SamplingParams
    seed: int
    remember: bool = True
    strengths: Sequence[float] = ()
    who: str = ""


def draw_seeds(seed: int | None, same: bool) -> dict[str, int]:
    """A seed a pane. Without a given one, each question gets a new one; ``same`` gives both panes equal dice."""
    left = secrets.randbelow(MAX_SEED) if seed is None else seed
    return {"left": left, "right": left if same else (left + 1) % MAX_SEED}


def play(
    session: ChatSession,
    conversation: Conversation,
    index: int,
    voices: Mapping[str, Voice],
    language: str,
) -> Generator[None]:
    """Lets ``voices`` answer round ``index``, writing into the conversation; yields when there is more to show.

    Ends when all have finished, and early when the conversation's stop is requested. Closing the generator (a closed
    tab) cancels what still runs.
    """
    conversation.streaming = True
    answers = conversation.rounds[index].answers
    yield from _follow(
        conversation,
        [_Player(session, conversation, index, pane, answers[pane], voice, language) for pane, voice in voices.items()],
    )


def sample(
    session: ChatSession, conversation: Conversation, index: int, pane: str, voices: Sequence[Voice], language: str
) -> Generator[None]:
    """Lets ``voices`` answer round ``index`` as ``pane`` remembers the rounds before, into the round's samples.

    Otherwise as `play`.
    """
    conversation.streaming = True
    answers = conversation.rounds[index].samples = [Answer() for _ in voices]
    yield from _follow(
        conversation,
        [
            _Player(session, conversation, index, pane, answer, voice, language)
            for answer, voice in zip(answers, voices, strict=True)
        ],
    )


def _follow(conversation: Conversation, players: Sequence[_Player]) -> Generator[None]:
    try:
        shown = None
        beat = time.monotonic()
        while any(player.thread.is_alive() for player in players):
            if conversation.stop_requested:
                for player in players:
                    player.cancel()
            current = [player.look() for player in players]
            if current != shown:
                shown = current
                yield
            # Showing takes a part of the beat; where it took all of it, no beat that was missed is made up for.
            beat = max(beat + BEAT_SECONDS, time.monotonic())
            time.sleep(max(0.0, beat - time.monotonic()))
    finally:
        for player in players:
            player.cancel()
        conversation.streaming = conversation.stop_requested = False


class _Player:
    """One answer's thread: submits the question and keeps the answer up to date."""

    def __init__(
        self,
        session: ChatSession,
        conversation: Conversation,
        index: int,
        pane: str,
        answer: Answer,
        voice: Voice,
        language: str,
    ) -> None:
        self.answer = answer
        self.answer.source, self.answer.who, self.answer.seed = voice.chip, voice.who, voice.seed
        self.answer.strengths = list(voice.strengths)
        self.answer.stands_alone = index > 0 and not voice.remember
        self._reply: ReplyStream | None = None
        self._cancelled = False
        question = conversation.rounds[index].question
        history = conversation.history(pane, index) if voice.remember else []
        self.thread = threading.Thread(
            target=self._run,
            args=(session, question, history, voice, language),
            name=f"pane-{pane}",
            daemon=True,
        )
        self.thread.start()

    def look(self) -> tuple[str, int]:
        """What there is to show: the text so far, or the answer's place in line."""
        reply = self._reply
        self.answer.place_in_line = reply.place_in_line if reply is not None and not self.answer.text else 0
        return self.answer.text, self.answer.place_in_line

    def cancel(self) -> None:
        self._cancelled = True
        if self._reply is not None:
            self._reply.cancel()

    def _run(
        self,
        session: ChatSession,
        question: str,
        history: list[tuple[str, str]],
        voice: Voice,
        language: str,
    ) -> None:
        try:
            self._reply = session.stream(
                question, history=history, prefix=voice.prefix, sampling=voice.sampling, seed=voice.seed
            )
            if self._cancelled:
                self._reply.cancel()
            for text in self._reply:
                self.answer.text = text
        except ChatGLMError as error:
            self.answer.error = error.localized(language)
        except Exception as error:
            # Out of GPU memory, say: this pane has to show it, and the other goes on.
            logger.exception("A pane's answer failed")
            self.answer.error = f"{type(error).__name__}: {error}"
        finally:
            self._note_facts()

    def _note_facts(self) -> None:
        reply = self._reply
        if reply is not None:
            self.answer.tokens, self.answer.seconds = reply.token_count, reply.seconds
            self.answer.dropped_rounds = reply.dropped_rounds
            self.answer.finish_reason = reply.finish_reason or ""
            self.answer.place_in_line = 0
