"""Asks the model for both panes: from keys and settings to prefixes, seeds and running answers.

Knows the model host, the sources and the conversation. Knows no Gradio.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from app.chat.conversation import MOST_SAMPLES, PANES, Answer, Conversation
from app.chat.duet import MAX_SEED, Voice, draw_seeds, play, sample
from app.chat.mixing import AS_TRAINED, Mix, mix_prefixes
from app.chat.model_host import ModelHost
from app.chat.sources import SourceLibrary
from app.text.languages import Speech
from chatglm2.errors import ChatGLMError, PromptError
from chatglm2.sampling import SamplingParams

LONGEST_SEED = 100  # characters, of which most can only be zeros and spaces


@dataclass(frozen=True)
class ChatSettings:
    """How both panes choose their words."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_new_tokens: int
    seed: int | None
    same_seed: bool
    remember: bool = True  # whether earlier rounds are part of the prompt

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.max_new_tokens,
        )

    def described(self, speech: Speech) -> dict[str, str]:
        """The settings with their names, for an exported page."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
        return {speech(name): f"{getattr(self, name):g}" for name in names}


class ChatService:
    def __init__(self, host: ModelHost, sources: SourceLibrary) -> None:
        self._host = host
        self._sources = sources
        self._answering = 0
        self._quiet = threading.Condition()

    @property
    def answering(self) -> int:
        """How many conversations are being answered now."""
        return self._answering

    def wait_until_quiet(self, timeout: float) -> bool:
        """Wait until no answer is being shown, ``timeout`` seconds at most; returns whether it is so."""
        with self._quiet:
            return self._quiet.wait_for(lambda: not self._answering, timeout)

    def check(self, question: str, settings: ChatSettings) -> None:
        """Refuses what cannot be answered before it becomes part of a conversation.

        Raises:
            ChatGLMError: the model is not ready, or the question does not fit.
        """
        self._host.session.fit_prompt(question, [], settings.sampling.max_new_tokens)

    def answer(
        self,
        conversation: Conversation,
        index: int,
        keys: Mapping[str, str],
        settings: ChatSettings,
        speech: Speech,
        panes: tuple[str, ...] = PANES,
        mixes: Mapping[str, Mix] = MappingProxyType({}),
    ) -> Generator[None]:
        """Answers round ``index`` in ``panes``; yields when there is more to show.

        A pane without one of ``mixes`` answers as its checkpoint was trained.

        A pane whose checkpoint cannot be read says so; the other answers all the same.

        Raises:
            ChatGLMError: the model is not ready.
        """
        session = self._host.session
        seeds = draw_seeds(settings.seed, settings.same_seed)
        voices = {}
        for pane in panes:
            try:
                mixed = mix_prefixes(
                    self._sources, keys[pane], mixes.get(pane, AS_TRAINED), self._host.options.name, speech
                )
            except ChatGLMError as error:
                failed = Answer(source=Path(keys[pane]).name, error=error.localized(speech.language))
                conversation.rounds[index].answers[pane] = failed
                continue
            voices[pane] = Voice(
                mixed.chip, mixed.prefix, settings.sampling, seeds[pane], settings.remember, mixed.strengths, mixed.who
            )
        with self._counted():
            yield from play(session, conversation, index, voices, speech.language)

    def sample(
        self,
        conversation: Conversation,
        index: int,
        pane: str,
        key: str,
        count: int,
        settings: ChatSettings,
        speech: Speech,
        mix: Mix = AS_TRAINED,
    ) -> Generator[None]:
        """Answers round ``index`` ``count`` times with what ``pane`` has chosen, from seeds that follow one another.

        Raises:
            ChatGLMError: the model is not ready, or the checkpoint cannot be read.
        """
        session = self._host.session
        mixed = mix_prefixes(self._sources, key, mix, self._host.options.name, speech)
        first = draw_seeds(settings.seed, same=True)["left"]
        voices = [
            Voice(
                mixed.chip,
                mixed.prefix,
                settings.sampling,
                (first + place) % MAX_SEED,
                settings.remember,
                mixed.strengths,
                mixed.who,
            )
            for place in range(min(count, MOST_SAMPLES))
        ]
        with self._counted():
            yield from sample(session, conversation, index, pane, voices, speech.language)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._quiet:
            self._answering += 1
        try:
            yield
        finally:
            with self._quiet:
                self._answering -= 1
                self._quiet.notify_all()


def parse_seed(text: str) -> int | None:
    """A seed as a person types it; None where the field is empty.

    Raises:
        PromptError: it is no whole number from 0 to 2147483647.
    """
    if not text.strip():
        return None
    # Of thousands of digits Python makes no number.
    if not text.strip().isdecimal() or len(text) > LONGEST_SEED or int(text) > MAX_SEED:
        raise PromptError(
            f"The seed must be a whole number from 0 to {MAX_SEED}, or empty; found {text.strip()[:20]!r}.",
            f"随机种子应为 0 到 {MAX_SEED} 之间的整数，或留空；实际为 {text.strip()[:20]!r}。",
        )
    return int(text)
