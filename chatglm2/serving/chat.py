"""Conversations: text in, text out, on top of the engine.

Knows requests and replies; how a conversation becomes a prompt is `text.prompt`'s. Knows no page and no files.

`chat` and `stream_chat` are what the original's users know, as ``model.chat(tokenizer, "你好", history=[])``;
`ChatSession` is what the page uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from chatglm2.kernels.availability import computing_on
from chatglm2.model.prefix import Prefix
from chatglm2.sampling import SamplingParams
from chatglm2.serving.engine import DEFAULT_MAX_LENGTH, Engine
from chatglm2.serving.own_engine import own_engine
from chatglm2.serving.request import FinishReason, Request, check_length, check_prefix
from chatglm2.text.decoder import IncrementalDecoder
from chatglm2.text.prompt import FittedPrompt, clean_reply, fit_prompt
from chatglm2.text.tokenizer import ChatGLMTokenizer

if TYPE_CHECKING:
    from chatglm2.model.modeling import ChatGLMForConditionalGeneration

History = list[tuple[str, str]]

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
        prefix: Prefix | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
    ) -> ReplyStream:
        """Start a reply to ``query``.

        A history that does not fit loses its oldest rounds; `ReplyStream.dropped_rounds` says how many.

        Raises:
            PromptError: ``query`` is empty or does not fit by itself.
        """
        sampling = sampling or SamplingParams()
        prompt = self.fit_prompt(query, history, sampling.max_new_tokens, prefix)
        return self.answer(prompt, prefix, sampling, seed)

    def answer(self, prompt: FittedPrompt, prefix: Prefix | None, sampling: SamplingParams, seed: int) -> ReplyStream:
        """`stream` for a prompt that has been fitted already."""
        request = Request(prompt.ids, prefix, sampling, seed)
        return ReplyStream(self.engine, self.tokenizer, request, prompt.dropped_rounds)

    def fit_prompt(
        self, query: str, history: Sequence[tuple[str, str]], max_new_tokens: int, prefix: Prefix | None = None
    ) -> FittedPrompt:
        """`chatglm2.text.prompt.fit_prompt`, for the engine's context behind ``prefix``."""
        max_length = self.engine.text_limit(prefix)
        check_prefix(prefix, self.engine.model.config, max_length)
        return fit_prompt(self.tokenizer, query, history, max_length=max_length, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def probe(self, prefix: Prefix) -> PrefixProbe:
        """Whether ``prefix`` changes what the model would say first."""
        model = self.engine.model
        ids = torch.tensor([self.tokenizer.encode_prompt(PROBE_QUERY)] * 2, device=model.device)
        with computing_on(model.device):
            base, tuned = model(ids, prefix=[None, prefix], logits_to_keep=1).logits[:, -1].float()
        change = (tuned - base).abs().max() / base.std().clamp(min=1e-9)
        return PrefixProbe(float(change), bool(tuned.argmax() != base.argmax()))


def chat(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History | None = None,
    max_length: int = DEFAULT_MAX_LENGTH,
    num_beams: int = 1,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    prefix: Prefix | None = None,
    strength: float = 1.0,
    **generation: Any,
) -> tuple[str, History]:
    """Answer ``query`` and return the reply and the longer history.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        query: the question.
        history: earlier (question, answer) pairs; not changed.
        max_length: tokens of prompt and reply together; a prefix is not counted.
        num_beams: above 1, beam search through transformers' ``generate()``.
        do_sample: False is greedy.
        top_p: see `SamplingParams`.
        temperature: see `SamplingParams`.
        prefix: a prefix to answer with.
        strength: of the prefix, from 0, the base model, over 1, as it was trained, to 1.5.
        generation: more options of `stream_chat`, or, with beams, of ``generate()``.
    """
    history = list(history or ())
    prefix = prefix.at(strength) if prefix is not None else None
    if num_beams > 1:
        sampling: dict[str, Any] = {"top_p": top_p, "temperature": temperature} if do_sample else {}
        ids = torch.tensor([tokenizer.encode_prompt(query, history)], device=model.device)
        output = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_length=max_length,
            num_beams=num_beams,
            prefix=prefix,
            do_sample=do_sample,
            **sampling,
            **generation,
        )
        reply = clean_reply(tokenizer.decode_ids(output[0, ids.shape[1] :].tolist()))
        return reply, [*history, (query, reply)]
    options: dict[str, Any] = {"do_sample": do_sample, "top_p": top_p, "temperature": temperature, "prefix": prefix}
    *_, (reply, longer) = stream_chat(model, tokenizer, query, history, max_length, **(options | generation))
    return reply, longer


def stream_chat(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History | None = None,
    max_length: int = DEFAULT_MAX_LENGTH,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    prefix: Prefix | None = None,
    top_k: int = 50,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    strength: float = 1.0,
) -> Iterator[tuple[str, History]]:
    """Answer ``query`` word by word: yields the reply so far and the history with it.

    Args as for `chat`; without ``seed`` one is drawn from torch's global generator.
    """
    history = list(history or ())
    prefix = prefix.at(strength) if prefix is not None else None
    context = max(1, min(max_length, model.config.seq_length))
    session = ChatSession(own_engine(model, context), tokenizer)
    limit = min(context, session.engine.text_limit(prefix))
    check_prefix(prefix, model.config, limit)
    # What is asked for beyond the model's own context is kept for the reply.
    prompt = fit_prompt(tokenizer, query, history, max_length=limit, max_new_tokens=max(1, max_length - limit))
    check_length(len(prompt.ids), limit)  # an engine made for a longer context would take it
    sampling = SamplingParams(
        temperature=temperature if do_sample else 0.0,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=limit - len(prompt.ids),
    )
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    for reply in session.answer(prompt, prefix, sampling, seed):
        yield reply, [*history, (query, reply)]
