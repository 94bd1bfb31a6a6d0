"""A model's answers to examples: many at a time through the engine, or with beams through transformers' ``generate()``.

Knows prompts, the original's token budget and its sampling. Knows no score and no file.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Engine, Prefix, Request, SamplingParams
from chatglm2.errors import DataError
from chatglm2.memory.estimate import fitting_slots
from chatglm2.serving.engine import PREFIX_ROOM
from chatglm2.serving.runners.cpu import SINGLE_THREAD_PARAMETERS
from training.data.encoding import Example, ExampleEncoder
from training.evaluation.original_beams import counting_prompts
from training.settings.keep_recipe import ANSWER_TOKENS
from training.settings.train import TrainingSettings

# How a general question is asked: greedily, for a short answer, and as a user would, without the task's own frame.
ASKING: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "source_prefix": "",
    "max_source_length": 256,
    "max_target_length": ANSWER_TOKENS,
}
TOP_K = 50  # transformers' default, which the original relied on
MAPPED_ROWS = 1000  # rows that the original pads to one length, `datasets`' batch in `map`


@dataclass(frozen=True)
class Answer:
    """What a model said. ``is_cut`` tells that it had not finished when its tokens were used up."""

    text: str
    is_cut: bool = False


def answer_examples(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    settings: TrainingSettings,
    prefixes: Sequence[Prefix | None] = (None,),
    answered: Container[int] = (),
) -> Iterator[tuple[int, list[Answer]]]:
    """Answer every example once for each prefix; None stands for the base model, whatever the model is training.

    A row's random numbers come from ``settings.seed`` and its place in ``examples`` alone, the same for all prefixes.
    The places in ``answered`` are left out.

    Raises:
        DataError: if a prompt is as long as all that the model can read.

    Yields:
        the place of an example and its answers in the order of ``prefixes``; each example once, as it is done.
    """
    encoder = ExampleEncoder(tokenizer, settings)
    prompts = [encoder.encode_prompt(example) for example in examples]
    places = [place for place in range(len(prompts)) if place not in answered]
    if not places:
        return
    _require_room(model, max(map(len, prompts)))
    answer = _answer_with_engine if settings.num_beams == 1 else _answer_with_beams
    was_training = model.training
    model.eval()
    try:
        yield from answer(model, tokenizer, prompts, places, settings, prefixes)
    finally:
        model.train(was_training)


def token_budget(settings: TrainingSettings) -> int:
    """Tokens of prompt and answer together, as the original counts them."""
    return settings.max_source_length + settings.max_target_length + 1


def reference_text(tokenizer: ChatGLMTokenizer, example: Example, settings: TrainingSettings) -> str:
    """What an answer is compared with: the example's own, cut as the original cuts it, [gMASK] and sop counted."""
    limit = settings.val_max_target_length or settings.max_target_length
    return tokenizer.decode_ids(tokenizer.encode_text(example.response)[: limit - len(tokenizer.get_prefix_tokens())])


def _require_room(model: ChatGLMForConditionalGeneration, longest: int) -> None:
    limit = model.config.seq_length
    if longest >= limit:
        raise DataError(
            f"A prompt has {longest:,} tokens, but the model reads {limit:,} at most, its answer included. "
            f"Use a --max_source_length below {limit}.",
            f"有提示长达 {longest:,} 个 token，而模型连同回答最多只能读 {limit:,} 个。"
            f"请使用小于 {limit} 的 --max_source_length。",
        )


def _answer_with_engine(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    prompts: Sequence[list[int]],
    places: Sequence[int],
    settings: TrainingSettings,
    prefixes: Sequence[Prefix | None],
) -> Iterator[tuple[int, list[Answer]]]:
    budget = token_budget(settings)
    # A long prefix would take the columns that it needs from the answer.
    excess = max((prefix.length - PREFIX_ROOM for prefix in prefixes if prefix is not None), default=0)
    length = budget + max(excess, 0)
    fitting = fitting_slots(model.config, model.dtype, model.device, length + PREFIX_ROOM)
    slots = max(1, min(settings.per_device_eval_batch_size, len(places) * len(prefixes), fitting))
    with contextlib.closing(Engine(model, slots=slots, max_length=length)) as engine:
        counted = _counted_lengths(prompts, settings)
        requests = [
            Request(prompts[index], prefix, _sampling(settings, max(1, budget - counted[index])), settings.seed + index)
            for index in places
            for prefix in prefixes
        ]
        streams = iter(engine.submit_all(requests))
        for index in places:
            answers = []
            for _ in prefixes:
                stream = next(streams)
                text = tokenizer.decode_ids(stream)
                answers.append(Answer(text, is_cut=stream.finish_reason == "length"))
            yield index, answers


def _counted_lengths(prompts: Sequence[list[int]], settings: TrainingSettings) -> list[int]:
    """Tokens of the budget that each prompt takes: its own, or in the original those of the longest beside it."""
    lengths = [len(prompt) for prompt in prompts]
    if settings.compat is None:
        return lengths
    longest = [max(lengths[start : start + MAPPED_ROWS]) for start in range(0, len(lengths), MAPPED_ROWS)]
    return [longest[index // MAPPED_ROWS] for index in range(len(lengths))]


def _sampling(settings: TrainingSettings, max_new_tokens: int) -> SamplingParams:
    if not settings.do_sample:
        return SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    return SamplingParams(settings.temperature, settings.top_p, TOP_K, max_new_tokens=max_new_tokens)


def _answer_with_beams(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    prompts: Sequence[list[int]],
    places: Sequence[int],
    settings: TrainingSettings,
    prefixes: Sequence[Prefix | None],
) -> Iterator[tuple[int, list[Answer]]]:
    """Prompts of one length share a batch, so that none is padded; sampled rows go alone, each with its own seed."""
    size = 1 if settings.do_sample else settings.per_device_eval_batch_size
    by_length: dict[int, list[int]] = defaultdict(list)
    for index in places:
        by_length[len(prompts[index])].append(index)
    batches = [
        indices[start : start + size] for indices in by_length.values() for start in range(0, len(indices), size)
    ]
    for batch in batches:
        rows = [prompts[index] for index in batch]
        with _fitting_threads(model):
            answers = [
                _generate(model, tokenizer, rows, settings, prefix, settings.seed + batch[0]) for prefix in prefixes
            ]
        for index, row in zip(batch, zip(*answers, strict=True), strict=True):
            yield index, list(row)


@contextlib.contextmanager
def _fitting_threads(model: ChatGLMForConditionalGeneration) -> Iterator[None]:
    """One thread for a model so small that a second would mostly wait, as the engine does."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.num_parameters() < SINGLE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _generate(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    prompts: Sequence[list[int]],
    settings: TrainingSettings,
    prefix: Prefix | None,
    seed: int,
) -> list[Answer]:
    ids = torch.tensor(prompts, device=model.device)  # [n, S]
    options: dict[str, Any] = {"do_sample": settings.do_sample, "num_beams": settings.num_beams}
    if settings.do_sample:
        options |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": TOP_K}
    as_before = settings.compat == "original" and settings.num_beams > 1
    ranking = counting_prompts(model, int(tokenizer.eos_token_id)) if as_before else contextlib.nullcontext()
    devices = [model.device] if model.device.type == "cuda" else []
    with ranking, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        output = cast(Any, model).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            prefix=[prefix] * len(prompts),
            max_length=min(token_budget(settings), model.config.seq_length),
            use_cache=True,
            **options,
        )
    return [_until_end(row, tokenizer) for row in output[:, ids.shape[1] :].tolist()]


def _until_end(ids: list[int], tokenizer: ChatGLMTokenizer) -> Answer:
    end = int(tokenizer.eos_token_id)
    if end not in ids:
        return Answer(tokenizer.decode_ids(ids), is_cut=True)
    return Answer(tokenizer.decode_ids(ids[: ids.index(end)]))
