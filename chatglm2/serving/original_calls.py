"""The original's calls: ``model.chat(tokenizer, "你好", history=[])``, ``stream_chat`` and ``stream_generate``.

Knows which of their options the engine has; the others go through transformers' ``generate()``, one token at a time.
Arguments come in the original's order, ours behind them by name.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from chatglm2.errors import ModelCallError
from chatglm2.model.prefix import OWN_PREFIX, Prefix
from chatglm2.sampling import SamplingParams
from chatglm2.serving.chat import ChatSession
from chatglm2.serving.engine import DEFAULT_MAX_LENGTH
from chatglm2.serving.own_engine import own_engine
from chatglm2.serving.request import check_length, check_prefix
from chatglm2.text.decoder import IncrementalDecoder
from chatglm2.text.prompt import clean_reply, fit_prompt
from chatglm2.text.tokenizer import ChatGLMTokenizer

if TYPE_CHECKING:
    from chatglm2.model.modeling import ChatGLMForConditionalGeneration

History = list[tuple[str, str]]
# Beyond sampling and lengths; what else is asked for is generate()'s.
ENGINE_OPTIONS = frozenset({"top_k", "repetition_penalty", "max_new_tokens", "seed"})


@dataclass(frozen=True)
class PastRounds:
    """Stands for the original's ``past_key_values``: what was said. Keys and values of it stay in the engine."""

    rounds: tuple[tuple[str, str], ...] = ()


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
    logits_processor: Sequence[Any] | None = None,
    *,
    prefix: Prefix | None = OWN_PREFIX,
    strength: float = 1.0,
    **generation: Any,
) -> tuple[str, History]:
    """Answer ``query`` and return the reply and the longer history.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        query: the question.
        history: earlier (question, answer) pairs; not changed.
        max_length: tokens of prompt and reply together; a prefix is not counted.
        num_beams: above 1, beam search.
        do_sample: False is greedy.
        top_p: see `SamplingParams`.
        temperature: see `SamplingParams`.
        logits_processor: transformers' processors, each called with the ids so far and the next token's scores.
        prefix: what to answer with; None is the base model, and if not given it is the prefix inside the model, if any.
        strength: of the prefix, from 0, the base model, over 1, as it was trained, to 1.5.
        generation: ``top_k``, ``repetition_penalty``, ``max_new_tokens``, ``seed``; and all that ``generate()`` takes,
            such as ``min_length``.
    """
    history = list(history or ())
    options: dict[str, Any] = {"do_sample": do_sample, "top_p": top_p, "temperature": temperature, **generation}
    if num_beams == 1:
        stream = stream_chat(
            model,
            tokenizer,
            query,
            history,
            max_length=max_length,
            logits_processor=logits_processor,
            prefix=prefix,
            strength=strength,
            **options,
        )
        *_, (reply, longer) = stream
        return reply, longer
    ids = torch.tensor([tokenizer.encode_prompt(query, history)], device=model.device)
    options |= {"num_beams": num_beams, "logits_processor": logits_processor}
    prefix = _at(strength, prefix, model)
    output = cast(Any, model).generate(ids, **_for_generate(model, ids, max_length, prefix, options))
    reply = clean_reply(tokenizer.decode_ids(output[0, ids.shape[1] :].tolist()))
    return reply, [*history, (query, reply)]


def stream_chat(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History | None = None,
    past_key_values: PastRounds | None = None,
    max_length: int = DEFAULT_MAX_LENGTH,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    logits_processor: Sequence[Any] | None = None,
    return_past_key_values: bool = False,
    *,
    prefix: Prefix | None = OWN_PREFIX,
    strength: float = 1.0,
    **generation: Any,
) -> Iterator[tuple[Any, ...]]:
    """Answer ``query`` word by word: yields the reply so far and the history with it.

    Args as for `chat`, and:
        past_key_values: what an earlier call yielded third; it is read instead of ``history``, as in the original.
        return_past_key_values: yield it. The engine finds what it has computed of a conversation either way.

    Without ``seed`` one is drawn from torch's global generator.

    Raises:
        ModelCallError: ``past_key_values`` are of another kind.
    """
    if not isinstance(past_key_values, PastRounds | None):
        found = type(past_key_values).__name__
        raise ModelCallError(
            f"past_key_values must be what stream_chat() yielded before, or None, found {found}. Pass the conversation "
            "as history instead: what was computed of it is found again.",
            f"past_key_values 应为 stream_chat() 之前返回的第三项或 None，实际为 {found}。"
            "请改用 history 传入对话，已计算的部分会自动复用。",
        )
    prefix = _at(strength, prefix, model)
    history = list(history or ())
    said = list(past_key_values.rounds) if past_key_values is not None else history
    options: dict[str, Any] = {"do_sample": do_sample, "top_p": top_p, "temperature": temperature, **generation}
    if logits_processor or generation.keys() - ENGINE_OPTIONS:
        options["logits_processor"] = logits_processor
        replies = _generated_replies(model, tokenizer, query, said, max_length, prefix, options)
    else:
        replies = _engine_replies(model, tokenizer, query, said, max_length, prefix, **options)
    for reply in replies:
        longer = [*history, (query, reply)]
        past = (PastRounds((*said, (query, reply))),) if return_past_key_values else ()
        yield reply, longer, *past


def stream_generate(
    model: ChatGLMForConditionalGeneration,
    input_ids: Tensor,
    generation_config: Any | None = None,
    logits_processor: Sequence[Any] | None = None,
    stopping_criteria: Sequence[Any] | None = None,
    prefix_allowed_tokens_fn: Any | None = None,
    return_past_key_values: bool = False,
    **options: Any,
) -> Iterator[Tensor]:
    """Continue ``input_ids`` ``[B, S]`` one token at a time, without beams: yields all ids so far, ``[B, S + n]``.

    Options are those of ``generate()``, which runs in a thread; it ends with the reader.

    Raises:
        ModelCallError: for ``return_past_key_values``.
    """
    if return_past_key_values:
        raise ModelCallError(
            "stream_generate() hands out no past_key_values. Use generate(…, return_dict_in_generate=True) for them, "
            "or stream_chat(), which computes no part of a conversation twice.",
            "stream_generate() 不返回 past_key_values。需要它时请用 generate(…, return_dict_in_generate=True)；"
            "stream_chat() 不会重复计算对话中已有的部分。",
        )
    reader = _Reader()
    options |= {
        "generation_config": generation_config,
        "logits_processor": logits_processor,
        "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
        "stopping_criteria": StoppingCriteriaList([*(stopping_criteria or ()), reader]),
    }
    worker = threading.Thread(target=reader.read, args=(model, input_ids, options), name="stream-generate", daemon=True)
    worker.start()
    ids = input_ids
    try:
        for tokens in reader:
            ids = torch.cat((ids, tokens.to(ids.device).view(-1, 1)), dim=1)
            yield ids
    finally:
        reader.left.set()
        worker.join()


class _Reader(BaseStreamer, StoppingCriteria):
    """Hands tokens from the thread that generates to the one that reads, and stops the one when the other has left."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self._tokens: queue.SimpleQueue[Tensor | BaseException | None] = queue.SimpleQueue()
        self._has_prompt = False

    def read(self, model: ChatGLMForConditionalGeneration, input_ids: Tensor, options: dict[str, Any]) -> None:
        """Run ``generate()`` to its end, whatever it is."""
        try:
            cast(Any, model).generate(input_ids, streamer=self, **options)
            self._tokens.put(None)
        except BaseException as error:
            self._tokens.put(error)

    def put(self, value: Tensor) -> None:
        if self._has_prompt:  # which comes first
            self._tokens.put(value)
        self._has_prompt = True

    def end(self) -> None:
        pass  # `read` says so, as it does of errors

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.left.is_set(), device=input_ids.device)

    def __iter__(self) -> Iterator[Tensor]:
        while (item := self._tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def _at(strength: float, prefix: Prefix | None, model: ChatGLMForConditionalGeneration) -> Prefix | None:
    prefix = model.own_prefix() if prefix is OWN_PREFIX else prefix
    return prefix.at(strength) if prefix is not None else None


def _engine_replies(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History,
    max_length: int,
    prefix: Prefix | None,
    *,
    do_sample: bool,
    top_p: float,
    temperature: float,
    top_k: int = 50,
    repetition_penalty: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    context = max(1, min(max_length, model.config.seq_length))
    session = ChatSession(own_engine(model, context), tokenizer)
    limit = min(context, session.engine.text_limit(prefix))
    check_prefix(prefix, model.config, limit)
    # What is asked for beyond the model's own context is kept for the reply.
    prompt = fit_prompt(tokenizer, query, history, max_length=limit, max_new_tokens=max(1, max_length - limit))
    check_length(len(prompt.ids), limit)  # an engine made for a longer context would take it
    room = limit - len(prompt.ids)
    sampling = SamplingParams(
        temperature=temperature if do_sample else 0.0,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=room if max_new_tokens is None else min(room, max_new_tokens),
    )
    yield from session.answer(prompt, prefix, sampling, int(torch.randint(2**31, ())) if seed is None else seed)


def _generated_replies(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: History,
    max_length: int,
    prefix: Prefix | None,
    options: dict[str, Any],
) -> Iterator[str]:
    ids = torch.tensor([tokenizer.encode_prompt(query, history)], device=model.device)
    decoder, text = IncrementalDecoder(tokenizer), ""
    for so_far in stream_generate(model, ids, **_for_generate(model, ids, max_length, prefix, options)):
        piece = decoder.push(int(so_far[0, -1]))
        if piece:
            text += piece
            yield clean_reply(text)
    yield clean_reply(text + decoder.flush())


def _for_generate(
    model: ChatGLMForConditionalGeneration,
    ids: Tensor,
    max_length: int,
    prefix: Prefix | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Options as ``generate()`` takes them.

    Raises:
        ModelCallError: for a seed, which generate() does not have.
    """
    if options.pop("seed", None) is not None:
        given = {name for name, value in options.items() if value is not None}
        named = ", ".join(sorted(given - ENGINE_OPTIONS - {"do_sample", "top_p", "temperature"}))
        raise ModelCallError(
            f"seed does not go with {named}, which generate() computes. Call torch.manual_seed() before instead.",
            f"seed 不能与 {named} 同时使用（后者由 generate() 计算）。请改为事先调用 torch.manual_seed()。",
        )
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in ("top_p", "temperature", "top_k")}
    if options.get("max_new_tokens") is None:
        options = {**options, "max_length": min(max_length, model.config.seq_length)}
    # To the model, no prefix at all is its own, and none for a row the base.
    return {**options, "attention_mask": torch.ones_like(ids), "prefix": [prefix]}
