"""Serving: slots of a static key/value cache, and requests that join and leave a running batch.

Knows ids, prefixes and sampling. Knows no text, no conversations and no page.

One worker thread owns the model's cache. Each turn of its loop drops rows that were cancelled, lets waiting requests in
(their prompts are computed in one padded batch), and computes one token for every running row. Running rows always fill
rows 0..n-1 of the cache, so a batch is a view of it; a row that ends hands its place to the last one.

A row's cache holds its prefix in front and its text behind. Rows of unlike prefixes differ in nothing else, so base and
tuned answers are two rows of one batch, and no row can see another's prefix.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from chatglm2.decoding import build_decoder
from chatglm2.errors import ChatGLMError, EngineError, PromptError
from chatglm2.modeling import ChatGLMForConditionalGeneration
from chatglm2.prefix import Prefix
from chatglm2.sampling import SamplingBatch, SamplingParams, choose_tokens

FinishReason = Literal["stop", "length", "cancelled", "error"]

DEFAULT_SLOTS = 8
DEFAULT_MAX_LENGTH = 8192
# Cache positions a slot keeps for a prefix; a longer prefix takes the rest from its text.
PREFIX_ROOM = 128
# Prompt tokens computed in one go; bounds the attention mask.
PREFILL_CHUNK = 2048


@dataclass(frozen=True)
class Request:
    """What to continue, and how.

    Attributes:
        prompt_ids: token ids, special tokens included.
        prefix: what the row attends to in front of its text, or None for the base model.
        sampling: how tokens are chosen.
        seed: of the row's own random numbers; the same seed gives the same reply, whoever shares the batch.
    """

    prompt_ids: Sequence[int]
    prefix: Prefix | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0


@dataclass(frozen=True)
class EngineStats:
    """How busy the engine is."""

    active: int
    waiting: int
    slots: int
    max_length: int


class Stream:
    """The reply to one request, token by token, as it is computed. Iterate over it once."""

    def __init__(self, request: Request, engine: Engine) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self._engine = engine
        self._tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._error: ChatGLMError | None = None

    def __iter__(self) -> Iterator[int]:
        while (token := self._tokens.get()) is not None:
            yield token
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stop computing it; its slot is free for the next request. Does nothing once it has finished."""
        self._engine._cancel(self)

    def _finish(self, reason: FinishReason, error: ChatGLMError | None = None) -> None:
        if self.finish_reason is None:
            self.finish_reason = reason
            self._error = error
            self._tokens.put(None)


class _Row:
    """A running request: its stream, and where it stands."""

    def __init__(self, stream: Stream, limit: int) -> None:
        request = stream.request
        self.stream = stream
        self.prefix_length = request.prefix.length if request.prefix is not None else 0
        self.text_length = len(request.prompt_ids)  # tokens in the cache once the prompt is computed
        self.remaining = min(request.sampling.max_new_tokens, limit - self.text_length)
        self.generator = torch.Generator().manual_seed(request.seed)
        self.last_token = -1

    @property
    def cached_length(self) -> int:
        return self.prefix_length + self.text_length


class SlotCache:
    """Keys and values of all slots; answers ``update`` for the rows and columns it was last pointed at."""

    def __init__(self, model: ChatGLMForConditionalGeneration, slots: int, capacity: int) -> None:
        config = model.config
        self.capacity = capacity
        shape = (config.num_layers, slots, capacity, config.multi_query_group_num, config.kv_channels)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 * NaN is NaN.
        self.keys = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.values = torch.zeros_like(self.keys)
        self._rows = slice(0, 0)
        self._seen_length = 0
        self._targets = torch.empty(0)

    def point_at(self, rows: slice, columns: Tensor, seen_length: int) -> None:
        """Where the next forward pass writes, and how many columns it looks at.

        Args:
            rows: the batch's rows.
            columns: ``[B, S]``, the column of each new token.
            seen_length: columns that the queries are given.
        """
        first = torch.arange(rows.start, rows.stop, device=columns.device).unsqueeze(1) * self.capacity
        self._rows, self._seen_length = rows, seen_length
        self._targets = (first + columns).flatten()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store ``[B, G, S, D]`` and return views ``[B, G, K, D]``."""
        return (
            self._store(self.keys[layer_idx], key_states),
            self._store(self.values[layer_idx], value_states),
        )

    def _store(self, layer: Tensor, new: Tensor) -> Tensor:
        layer.flatten(0, 1).index_copy_(0, self._targets, new.transpose(1, 2).flatten(0, 1))
        return layer[self._rows, : self._seen_length].transpose(1, 2)

    def write_prefix(self, row: int, prefix: Prefix) -> None:
        """Put ``prefix`` in front of ``row``."""
        ready = prefix.key_values.to(self.keys.device, self.keys.dtype)  # [layers, 2, P, G, D]
        self.keys[:, row, : prefix.length] = ready[:, 0]
        self.values[:, row, : prefix.length] = ready[:, 1]

    def erase(self, row: int) -> None:
        """Forget everything of one row."""
        self.keys[:, row] = 0
        self.values[:, row] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` columns of one row to another."""
        self.keys[:, target, :length] = self.keys[:, source, :length]
        self.values[:, target, :length] = self.values[:, source, :length]


class Engine:
    """Continuous batching over one model.

    Args:
        model: the base model; its weights are shared by all requests.
        slots: requests that run together; more wait in order.
        max_length: tokens of prompt and reply together, a slot; the prefix is not counted. 8192 or the model's own
            limit if not given.
    """

    def __init__(
        self, model: ChatGLMForConditionalGeneration, slots: int = DEFAULT_SLOTS, max_length: int | None = None
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, found {slots}")
        self.model = model
        self.slots = slots
        self.max_length = min(max_length or DEFAULT_MAX_LENGTH, model.config.seq_length)
        self._cache = SlotCache(model, slots, self.max_length + PREFIX_ROOM)
        self._decoder = build_decoder(model, self.max_length)
        self._seen: Tensor | None = None  # [slots, vocabulary]; allocated by the first repetition penalty
        self._rows: list[_Row] = []
        self._sampling: SamplingBatch | None = None
        self._waiting: deque[Stream] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._run, name="chatglm2-engine", daemon=True)
        self._worker.start()

    def submit(self, request: Request) -> Stream:
        """Queue a request and return its stream at once.

        Raises:
            PromptError: the prompt is empty, or leaves no room for a reply.
            EngineError: the engine is closed.
        """
        limit = self._text_limit(request)
        if not 0 < len(request.prompt_ids) < limit:
            raise self._misfit(len(request.prompt_ids), limit)
        stream = Stream(request, self)
        with self._wake:
            if self._closed:
                raise _closed_error()
            self._waiting.append(stream)
            self._wake.notify()
        return stream

    def stats(self) -> EngineStats:
        """How many requests run and wait."""
        with self._wake:
            active = sum(row.stream.finish_reason is None for row in self._rows)
            return EngineStats(active, len(self._waiting), self.slots, self.max_length)

    def close(self) -> None:
        """Cancel everything and stop the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._worker.join()

    def _text_limit(self, request: Request) -> int:
        prefix_length = request.prefix.length if request.prefix is not None else 0
        return min(self.max_length, self._cache.capacity - prefix_length)

    def _misfit(self, length: int, limit: int) -> PromptError:
        if length == 0:
            return PromptError("The prompt is empty. Type something first.", "输入是空的，请先输入内容。")
        return PromptError(
            f"The prompt has {length:,} tokens; at most {limit - 1:,} fit, with room for a reply. "
            "Shorten it, or start with a larger --max-length.",
            f"输入有 {length:,} 个词元，最多只能容纳 {limit - 1:,} 个（还要给回复留出位置）。"
            "请缩短输入，或用更大的 --max-length 启动。",
        )

    def _cancel(self, stream: Stream) -> None:
        with self._wake:
            if stream in self._waiting:
                self._waiting.remove(stream)
            stream._finish("cancelled")
            self._wake.notify()

    # The worker's side. Everything below runs on its thread only.

    @torch.inference_mode()
    def _run(self) -> None:
        while self._await_work():
            try:
                self._drop_finished()
                self._admit()
                if self._rows:
                    self._advance(self._decode())
            except Exception as error:
                self._fail_all(error)
        for stream in (*self._waiting, *(row.stream for row in self._rows)):
            stream._finish("cancelled")

    def _await_work(self) -> bool:
        """Sleep until there is something to do; False once the engine is closed."""
        with self._wake:
            while not (self._closed or self._waiting or self._rows):
                self._wake.wait()
            return not self._closed

    def _admit(self) -> None:
        """Let waiting requests into free slots and compute their prompts together."""
        with self._wake:
            free = self.slots - len(self._rows)
            joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            rows = [_Row(stream, self._text_limit(stream.request)) for stream in joining]
            first = len(self._rows)
            self._rows += rows
        if rows:
            self._sampling = None
            logits = self._prefill(rows, first)
            self._advance(logits, first)

    def _prefill(self, rows: list[_Row], first: int) -> Tensor:
        """Compute prompts, padded on the right, chunk by chunk; logits of the last position, ``[n, V]``."""
        device = self.model.device
        longest = max(row.text_length for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : row.text_length] = torch.tensor(row.stream.request.prompt_ids)
            if row.stream.request.prefix is not None:
                self._cache.write_prefix(first + index, row.stream.request.prefix)
            self._mark_prompt(row, first + index)
        ids = ids.to(device)
        in_front = torch.tensor([[row.prefix_length] for row in rows], device=device)
        ends = torch.tensor([row.text_length - 1 for row in rows], device=device)
        hidden = torch.zeros(len(rows), self.model.config.hidden_size, dtype=self.model.dtype, device=device)
        for start in range(0, longest, PREFILL_CHUNK):
            chunk = ids[:, start : start + PREFILL_CHUNK]
            output = self._forward(chunk, start, in_front, slice(first, first + len(rows)))
            ends_here = (ends >= start) & (ends < start + chunk.shape[1])
            picked = output[torch.arange(len(rows), device=device), (ends - start).clamp(0, chunk.shape[1] - 1)]
            hidden = torch.where(ends_here.unsqueeze(-1), picked, hidden)
        return self.model.transformer.output_layer(hidden)

    def _forward(self, ids: Tensor, start: int, in_front: Tensor, rows: slice) -> Tensor:
        """Hidden states ``[n, S, H]`` of one chunk of prompts; ``in_front`` holds prefix lengths, ``[n, 1]``."""
        positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
        # Padding may run past the slot's end; nobody reads it, so it may pile up in the last column.
        columns = (positions + in_front).clamp(max=self._cache.capacity - 1)
        seen_length = min(start + ids.shape[1] + int(in_front.max()), self._cache.capacity)
        mask = torch.arange(seen_length, device=ids.device) <= columns.unsqueeze(-1)  # [n, S, K]
        self._cache.point_at(rows, columns, seen_length)
        return self.model.transformer(ids, positions, mask.unsqueeze(1), self._cache)

    def _decode(self) -> Tensor:
        """One more position for every row: logits ``[n, vocabulary]``."""
        device = self.model.device
        lengths = [row.cached_length for row in self._rows]
        ids = torch.tensor([row.last_token for row in self._rows], device=device)
        positions = torch.tensor([row.text_length for row in self._rows], device=device)
        columns = torch.tensor(lengths, device=device).unsqueeze(1)
        seen_length = max(lengths) + 1
        mask = None
        if min(lengths) != max(lengths):
            mask = (torch.arange(seen_length, device=device) <= columns)[:, None, None]
        self._cache.point_at(slice(0, len(lengths)), columns, seen_length)
        for row in self._rows:
            row.text_length += 1
        return self._decoder(ids, positions, mask, self._cache)

    def _advance(self, logits: Tensor, first: int = 0) -> None:
        """Choose a token for each row from ``first`` on, hand it out, and let finished rows go."""
        rows = self._rows[first:]
        if first or self._sampling is None:
            batch = SamplingBatch([row.stream.request.sampling for row in rows], logits.device)
            self._sampling = None if first else batch
        else:
            batch = self._sampling
        uniforms = torch.cat([torch.rand(1, generator=row.generator) for row in rows]).to(logits.device)
        seen = self._seen[first : first + len(rows)] if self._seen is not None else None
        tokens = choose_tokens(logits, batch, uniforms, seen)
        if seen is not None:
            seen.scatter_(1, tokens.unsqueeze(1), True)
        healthy = logits.sum(-1).isfinite().tolist()
        for row, token, is_healthy in zip(rows, tokens.tolist(), healthy, strict=True):
            self._hand_out(row, token, is_healthy)
        self._drop_finished()

    def _hand_out(self, row: _Row, token: int, is_healthy: bool) -> None:
        stream = row.stream
        if not is_healthy:
            stream._finish("error", _broken_numbers_error())
        elif token == self.model.config.eos_token_id:
            stream._finish("stop")
        elif stream.finish_reason is None:
            row.last_token = token
            row.remaining -= 1
            stream._tokens.put(token)
            if row.remaining <= 0:
                stream._finish("length")

    def _drop_finished(self) -> None:
        """Free the slots of rows that are done, moving the last row into each gap."""
        with self._wake:
            for index in reversed(range(len(self._rows))):
                if self._rows[index].stream.finish_reason is None:
                    continue
                if self._rows[index].stream.finish_reason == "error":
                    self._cache.erase(index)  # what is not a number would reach later rows even through a mask
                last = self._rows.pop()
                self._sampling = None
                if index < len(self._rows):
                    self._rows[index] = last
                    self._cache.move(len(self._rows), index, last.cached_length)
                    if self._seen is not None:
                        self._seen[index] = self._seen[len(self._rows)]

    def _mark_prompt(self, row: _Row, index: int) -> None:
        """Note the prompt's tokens for the repetition penalty."""
        if row.stream.request.sampling.repetition_penalty != 1.0 and self._seen is None:
            size = (self.slots, self.model.config.padded_vocab_size)
            self._seen = torch.zeros(size, dtype=torch.bool, device=self.model.device)
        if self._seen is not None:
            self._seen[index] = False
            self._seen[index, torch.tensor(row.stream.request.prompt_ids, device=self.model.device)] = True

    def _fail_all(self, error: Exception) -> None:
        """A step broke, out of memory most likely: every running request ends with the reason, waiting ones go on."""
        reason = error if isinstance(error, ChatGLMError) else _step_error(error)
        with self._wake:
            rows, self._rows = self._rows, []
        for row in rows:
            row.stream._finish("error", reason)


def _closed_error() -> EngineError:
    return EngineError("The engine is closed. Start it again.", "推理引擎已关闭，请重新启动。")


def _step_error(error: Exception) -> EngineError:
    if isinstance(error, torch.OutOfMemoryError):
        return EngineError(
            f"The device ran out of memory while answering ({error}). Use fewer slots (--slots), a shorter context "
            "(--max-length) or quantization (--quantization-bit 4).",
            f"回答时显存不足（{error}）。请减少并发（--slots）、缩短上下文（--max-length）"
            "或使用量化（--quantization-bit 4）。",
        )
    return EngineError(
        f"Computing the reply failed: {type(error).__name__}: {error}. Please report this.",
        f"计算回复时出错：{type(error).__name__}: {error}。请反馈此问题。",
    )


def _broken_numbers_error() -> EngineError:
    return EngineError(
        "The model's output is not a number (NaN or infinity). The weights or this prefix are damaged, or the dtype is "
        "too narrow; try another checkpoint, or --dtype bf16.",
        "模型输出不是有效数字（NaN 或无穷大）。权重或该前缀可能已损坏，或精度不足；"
        "请换一个检查点，或使用 --dtype bf16。",
    )
