"""Conversations: text in, text out, on top of the engine.

Knows requests and replies; how a conversation becomes a prompt is `text.prompt`'s. Knows no page and no files.

`ChatSession` is what the page uses; ``model.chat()`` and its like are `original_calls`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from chatglm2.kernels.availability import computing_on
from chatglm2.model.prefix import OWN_PREFIX, Prefix
from chatglm2.sampling import SamplingParams
from chatglm2.serving.engine import Engine
from chatglm2.serving.request import FinishReason, Request, check_prefix
from chatglm2.text.decoder import IncrementalDecoder
from chatglm2.text.prompt import FittedPrompt, clean_reply, fit_prompt
from chatglm2.text.tokenizer import ChatGLMTokenizer

PROBE_QUERY = "你好"
# A prefix that moves no logit by this share of their spread does nothing that a reader could see.
PROBE_THRESHOLD = 1e-3


@dataclass(frozen=True)
class PrefixProbe:
    """What a prefix changes in the first token of a reply.

    Attributes:
        max_logit_change: largest change of a logit, in standard deviations of the base's logits.
        top_token_changed: whether the most likely first token is another one.
    """

    max_logit_change: float
    top_token_changed: bool

    @property
    def has_effect(self) -> bool:
        return self.top_token_changed or self.max_logit_change > PROBE_THRESHOLD


class ReplyStream:
    """A reply as it is written: iterate for its text so far, each time longer.

    Attributes:
        dropped_rounds: oldest rounds of the history that did not fit and were left out.
        token_count: tokens so far.
    """

    def __init__(self, engine: Engine, tokenizer: ChatGLMTokenizer, request: Request, dropped_rounds: int) -> None:
        self.dropped_rounds = dropped_rounds
        self.token_count = 0
        self._text = ""
        self._decoder = IncrementalDecoder(tokenizer)
        self._started = time.monotonic()
        self._ended: float | None = None
        self._engine = engine
        self._stream = engine.submit(request)

    def __iter__(self) -> Iterator[str]:
        try:
            for token in self._stream:
                self.token_count += 1
                piece = self._decoder.push(token)
                if piece:
                    self._text += piece
                    yield clean_reply(self._text)
            self._text += self._decoder.flush()
            yield clean_reply(self._text)
        finally:
            self._ended = self._ended or time.monotonic()
            self._stream.cancel()  # a reader who leaves early frees the slot

    def cancel(self) -> None:
        """Stop writing."""
        self._stream.cancel()

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._stream.finish_reason

    @property
    def place_in_line(self) -> int:
        """See `Engine.place_in_line`."""
        return self._engine.place_in_line(self._stream)

    @property
    def seconds(self) -> float:
        """Since it was asked for, until it ended."""
        return (self._ended or time.monotonic()) - self._started


class ChatSession:
    """Answers questions with one engine and one tokenizer; holds no conversation of its own."""

    def __init__(self, engine: Engine, tokenizer: ChatGLMTokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer

    def stream(
        self,
        query: str,
        history: Sequence[tuple[str, str]] = (),
        prefix: Prefix | None = OWN_PREFIX,
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> ReplyStream:
        """Start a reply to ``query``; None answers as the base model, no ``prefix`` with the one inside the model.

        A history that does not fit loses its oldest rounds; `ReplyStream.dropped_rounds` says how many.

        Raises:
            PromptError: ``query`` is empty or does not fit by itself.
        """
        sampling = sampling or SamplingParams()
        prefix = self._resolved(prefix)
        prompt = self.fit_prompt(query, history, sampling.max_new_tokens, prefix)
        return self.answer(prompt, prefix, sampling, seed)

    def answer(self, prompt: FittedPrompt, prefix: Prefix | None, sampling: SamplingParams, seed: int) -> ReplyStream:
        """`stream` for a prompt that has been fitted already."""
        request = Request(prompt.ids, prefix, sampling, seed)
        return ReplyStream(self.engine, self.tokenizer, request, prompt.dropped_rounds)

    def fit_prompt(
        self, query: str, history: Sequence[tuple[str, str]], max_new_tokens: int, prefix: Prefix | None = OWN_PREFIX
    ) -> FittedPrompt:
        """`chatglm2.text.prompt.fit_prompt`, for the engine's context behind ``prefix``."""
        prefix = self._resolved(prefix)
        max_length = self.engine.text_limit(prefix)
        check_prefix(prefix, self.engine.model.config, max_length)
        return fit_prompt(self.tokenizer, query, history, max_length=max_length, max_new_tokens=max_new_tokens)

    def _resolved(self, prefix: Prefix | None) -> Prefix | None:
        return self.engine.model.own_prefix() if prefix is OWN_PREFIX else prefix

    @torch.inference_mode()
    def probe(self, prefix: Prefix) -> PrefixProbe:
        """Whether ``prefix`` changes what the model would say first."""
        model = self.engine.model
        ids = torch.tensor([self.tokenizer.encode_prompt(PROBE_QUERY)] * 2, device=model.device)
        with computing_on(model.device):
            base, tuned = model(ids, prefix=[None, prefix], logits_to_keep=1).logits[:, -1].float()
        change = (tuned - base).abs().max() / base.std().clamp(min=1e-9)
        return PrefixProbe(float(change), bool(tuned.argmax() != base.argmax()))
