"""Serving: slots of a static key/value cache, and requests that join and leave a running batch.

Knows the thread that computes, and in which order. Knows no text, no conversations and no page.

One worker thread owns the cache. Each turn of its loop lets waiting requests into free slots, computes one chunk of
the prompts that are not finished, and one token for every row that is: a long prompt does not stop the others.

A slot holds a row's prefix in front and its text behind. Rows of unlike prefixes differ in nothing else, so base and
tuned answers are two rows of one batch, and no row can see another's prefix.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from chatglm2.errors import ChatGLMError, EngineError
from chatglm2.memory.estimate import choose_slots, free_bytes, no_room, out_of_memory
from chatglm2.memory.host_copy import HostCopy
from chatglm2.memory.lending import LOAN_SECONDS, Activity, Lender
from chatglm2.memory.peers import can_talk
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import build_cache
from chatglm2.serving.request import EngineStats, Request
from chatglm2.serving.room import ConversationRoom
from chatglm2.serving.runners.base import DecodeBatch, PromptPart
from chatglm2.serving.runners.choice import build_runner, runs_on_pages
from chatglm2.serving.sampling_state import SamplingState
from chatglm2.serving.slots import Row, Slot, SlotTable
from chatglm2.serving.stream import Stream

DEFAULT_MAX_LENGTH = 8192
# Columns a slot keeps for a prefix; a longer prefix takes the rest from its text.
PREFIX_ROOM = 128
# Prompt tokens computed in one turn, for all rows together: few while others wait for their next token.
PREFILL_CHUNK_ALONE = 2048
PREFILL_CHUNK_SHARED = 512
# Columns that compiling and capturing use.
WARM_UP_COLUMNS = 256
# A reply that memory cuts shorter than this is refused instead.
SHORTEST_REPLY = 16


class _Step:
    """Chosen tokens on their way to the host.

    Args:
        rows: whose they are.
        tokens: ``[n]`` on the device; what the next step is fed.
        outcome: ``[2, n]`` on the device: the tokens, and 1 where the logits were finite.
    """

    def __init__(self, rows: list[Row], tokens: Tensor, outcome: Tensor) -> None:
        self.rows = rows
        self.tokens = tokens
        self._outcome = HostCopy(outcome)

    def read(self) -> tuple[list[int], list[int]]:
        """Tokens, and whether the logits were finite, a row each; waits for them."""
        tokens, healthy = self._outcome.read()
        return tokens, healthy


class Engine:
    """Continuous batching over one model.

    Args:
        model: the base model; its weights are shared by all requests.
        slots: requests that run together; more wait in order. 8, or fewer where memory is short, if not given.
        max_length: tokens of prompt and reply together, a slot; the prefix is not counted. 8192 or the model's own
            limit if not given.

    Raises:
        DeviceMemoryError: if the slots do not fit beside the weights.
    """

    def __init__(
        self, model: ChatGLMForConditionalGeneration, slots: int | None = None, max_length: int | None = None
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, found {slots}")
        self.model = model
        self.max_length = min(max_length or DEFAULT_MAX_LENGTH, model.config.seq_length)
        config, dtype, device, capacity = model.config, model.dtype, model.device, self.max_length + PREFIX_ROOM
        paged = runs_on_pages(model)
        slots = choose_slots(config, dtype, device, capacity, slots, as_used=paged)
        self._cache = build_cache(config, dtype, device, slots, capacity, paged=paged)
        self._build_runner(model)
        self._room = ConversationRoom(self._cache, lambda: free_bytes(device))
        self._slots = SlotTable(slots)
        self._sampling = SamplingState(slots, model.config.padded_vocab_size, model.device)
        self._rows: list[Row] = []  # in the order of their slots
        self._step: _Step | None = None  # started, its tokens not yet read
        self._waiting: deque[Stream] = deque()
        self._errands: deque[tuple[Callable[[], int], Future[int]]] = deque()  # for the worker, between two steps
        self.activity = Activity()
        self._lender: Lender | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._run, name="chatglm2-engine", daemon=True)
        self._worker.start()
        # A thread that is inside torch when the interpreter ends takes the whole process down with it.
        atexit.register(self.close)

    def submit(self, request: Request) -> Stream:
        """Queue a request and return its stream at once.

        Raises:
            PromptError: the prompt is empty, or leaves no room for a reply.
            EngineError: the engine is closed.
        """
        request.check(self._text_limit(request))
        stream = Stream(request, self._cancel)
        with self._wake:
            if self._closed:
                raise _closed_error()
            self._waiting.append(stream)
            self.activity.set(True)
            self._wake.notify()
        return stream

    def submit_all(self, requests: Sequence[Request]) -> list[Stream]:
        """`submit` many at one moment: the same ones then share the same batches, and so round alike, every time."""
        with self._wake:
            return [self.submit(request) for request in requests]

    @property
    def compile_seconds(self) -> float:
        """What compiling for the device took when the engine was built; 0 where nothing is compiled."""
        return self._runner.compile_seconds

    def stats(self) -> EngineStats:
        """How many requests run and wait."""
        with self._wake:
            active = sum(not row.is_finished for row in self._rows)
            slots = self._slots
            return EngineStats(active, len(self._waiting), len(slots), self.max_length, slots.reused_tokens)

    def close(self) -> None:
        """Cancel everything and stop the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._lender is not None:
            self._lender.close()
        self._worker.join()
        atexit.unregister(self.close)

    def open_to_borrowers(self) -> None:
        """Let the user's other processes on the device borrow memory, and hear whether somebody waits for an answer."""
        if can_talk():
            self._lender = Lender(self, self.model.device)

    def lend(self, wanted: int, borrower: object) -> int:
        """See `chatglm2.memory.lending.Source`: idle conversations give up their memory, running ones keep it."""

        def between_steps() -> int:
            self._withdraw(self._slots.idle)
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            return self._room.lend(wanted, borrower)

        return self._on_worker(between_steps)

    def take_back(self, borrower: object) -> None:
        """End a loan, however it began."""
        with self._wake:
            self._room.take_back(borrower)
            self._wake.notify()

    def _on_worker(self, errand: Callable[[], int]) -> int:
        future: Future[int] = Future()
        with self._wake:
            if self._closed:
                raise _closed_error()
            self._errands.append((errand, future))
            self._wake.notify()
        return future.result(LOAN_SECONDS)

    def _build_runner(self, model: ChatGLMForConditionalGeneration) -> None:
        try:
            self._cache.provide(0, min(WARM_UP_COLUMNS, self._cache.capacity))
            with torch.inference_mode():
                self._runner = build_runner(model, self._cache, self.max_length)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, model.device) from error
        self._cache.withdraw(0)

    def _text_limit(self, request: Request) -> int:
        return min(self.max_length, self._cache.capacity - request.prefix_length)

    def _cancel(self, stream: Stream) -> None:
        with self._wake:
            if stream in self._waiting:
                self._waiting.remove(stream)
            stream.finish("cancelled")
            self._wake.notify()

    # The worker's side. Everything below runs on its thread only.

    @torch.inference_mode()
    def _run(self) -> None:
        if self._runner.threads is not None:
            torch.set_num_threads(self._runner.threads)
        while self._await_work():
            try:
                self._take_turn()
            except Exception as error:
                self._fail_all(error)
        for stream in (*self._waiting, *(row.stream for row in self._rows)):
            stream.finish("cancelled")
        for _, future in self._errands:
            future.set_exception(_closed_error())

    def _await_work(self) -> bool:
        """Sleep until there is something to do; False once the engine is closed."""
        with self._wake:
            while not (self._closed or self._waiting or self._rows or self._errands):
                self.activity.set(False)
                self._wake.wait()
            return not self._closed

    def _take_turn(self) -> None:
        if not self._is_steady():
            self._settle()
            self._drop_finished()
            self._run_errands()
            self._admit()
        decoding = [row for row in self._rows if not row.is_prefilling]
        prefilling = [row for row in self._rows if row.is_prefilling]
        if prefilling:
            self._prefill(prefilling, PREFILL_CHUNK_SHARED if decoding else PREFILL_CHUNK_ALONE)
            self._settle()
        if decoding:
            self._advance(decoding, self._decode(decoding))

    def _is_steady(self) -> bool:
        """Whether the next step can be started on tokens that the host has not read: nobody joins or surely leaves."""
        step = self._step
        return (
            step is not None
            and self._runner.runs_ahead
            and step.rows == self._rows
            and not self._errands
            and not (self._waiting and len(self._rows) < len(self._slots))
            and all(not row.is_finished and row.remaining > 1 for row in step.rows)
        )

    def _run_errands(self) -> None:
        while self._errands:
            errand, future = self._errands.popleft()
            try:
                future.set_result(errand())
            except Exception as error:
                future.set_exception(error)

    def _admit(self) -> None:
        """Let waiting requests into free slots, each into the one that saves it most, while there is memory."""
        with self._wake:
            while self._waiting and self._slots.has_free and self._enter(self._waiting[0]):
                self._waiting.popleft()
            self._rows.sort(key=lambda row: row.slot.index)

    def _enter(self, stream: Stream) -> bool:
        """Give a request its slot, or its refusal; False where it has to wait for another one's memory."""
        request = stream.request
        slot = self._slots.choose(request)
        limit = self._text_limit(request)
        wanted = min(len(request.prompt_ids) + request.sampling.max_new_tokens, limit)
        provided = self._provide(slot, request.prefix_length + wanted)
        if not provided and self._rows:
            return False
        if not provided:  # nobody will give way: as long a reply as there is room for, if any
            wanted = self._room.most_columns - request.prefix_length
            fits = wanted >= len(request.prompt_ids) + SHORTEST_REPLY
            if not (fits and self._provide(slot, request.prefix_length + wanted)):
                stream.finish("error", no_room(len(request.prompt_ids), max(wanted, 0), self.model.device))
                return True
        needs_prefix = self._slots.take(slot, request)
        row = Row(stream, slot, wanted)
        self._rows.append(row)
        if needs_prefix and request.prefix is not None:
            self._cache.write_prefix(slot.index, request.prefix)
        self._sampling.enter(slot.index, request.sampling, request.seed, row.prompt_ids)
        return True

    def _provide(self, slot: Slot, columns: int) -> bool:
        """Put memory under a slot, idle conversations giving way as need be; whether there was enough."""
        victims = self._room.victims(slot, columns, self._slots.idle)
        if victims is None:
            return False
        try:
            self._withdraw(victims)
            self._cache.provide(slot.index, columns)
        except torch.OutOfMemoryError:  # another program has taken it meanwhile
            return False
        return True

    def _withdraw(self, slots: Sequence[Slot]) -> None:
        """Take the memory from idle slots, and with it what they held."""
        for slot in slots:
            if self._cache.mapped_bytes(slot.index):
                self._cache.withdraw(slot.index)
                slot.forget()

    def _prefill(self, rows: list[Row], budget: int) -> None:
        """Compute up to ``budget`` tokens of the prompts; rows whose prompt is done get their first token."""
        share = max(1, budget // len(rows))
        parts = []
        for row in rows:
            start = row.fed_tokens
            parts.append(PromptPart(row.take_prompt(share), row.slot.index, start, row.prefix_length))
        logits = self._runner.prefill(parts)
        ready = [index for index, row in enumerate(rows) if not row.is_prefilling]
        if ready:
            self._advance([rows[index] for index in ready], logits if len(ready) == len(rows) else logits[ready])

    def _decode(self, rows: list[Row]) -> Tensor:
        """One more position for every row: logits ``[n, vocabulary]``."""
        if self._step is not None:  # steady: what it chose is fed on before it is read
            ids = self._step.tokens
        else:
            ids = torch.tensor([row.last_token for row in rows], device=self.model.device)
            for row in rows:
                row.slot.tokens.append(row.last_token)
        positions = [row.fed_tokens for row in rows]
        columns = [position + row.prefix_length for position, row in zip(positions, rows, strict=True)]
        for row in rows:
            row.fed_tokens += 1
        return self._runner.decode(DecodeBatch(ids, [row.slot.index for row in rows], positions, columns))

    def _advance(self, rows: list[Row], logits: Tensor) -> None:
        """Choose a token for each row, read the step before, and this one too where nothing is gained by waiting."""
        tokens, healthy = self._sampling.choose([row.slot.index for row in rows], logits)
        step = _Step(rows, tokens, torch.stack((tokens, healthy)))
        self._settle(fed_on=True)
        self._step = step
        if not self._runner.runs_ahead:
            self._settle()

    def _settle(self, fed_on: bool = False) -> None:
        """Read the tokens of the last step, if any, and hand them out.

        Args:
            fed_on: the step after it has been started, so its tokens are in the cache.
        """
        step, self._step = self._step, None
        if step is None:
            return
        tokens, healthy = step.read()
        for row, token, is_healthy in zip(step.rows, tokens, healthy, strict=True):
            if fed_on:
                row.slot.tokens.append(token)
            self._hand_out(row, token, bool(is_healthy))

    def _hand_out(self, row: Row, token: int, is_healthy: bool) -> None:
        stream = row.stream
        if not is_healthy:
            stream.finish("error", _broken_numbers_error())
        elif token == self.model.config.eos_token_id:
            stream.finish("stop")
        elif stream.finish_reason is None:
            row.last_token = token
            row.remaining -= 1
            stream.push(token)
            if row.remaining <= 0:
                stream.finish("length")

    def _drop_finished(self) -> None:
        """Free the slots of rows that are done; their text stays for whoever continues it."""
        with self._wake:
            for row in [row for row in self._rows if row.is_finished]:
                self._rows.remove(row)
                is_broken = row.stream.finish_reason == "error"
                if is_broken:  # what is not a number would reach later rows even through a mask
                    self._cache.erase(row.slot.index)
                self._slots.release(row.slot, forget=is_broken)

    def _fail_all(self, error: Exception) -> None:
        """A step broke, out of memory most likely: every running request ends with the reason, waiting ones go on."""
        if isinstance(error, torch.OutOfMemoryError):
            reason: ChatGLMError = out_of_memory(error, self.model.device)
        else:
            reason = error if isinstance(error, ChatGLMError) else _step_error(error)
        self._step = None
        for row in self._rows:
            row.stream.finish("error", reason)
        self._drop_finished()


def _closed_error() -> EngineError:
    return EngineError("The engine is closed. Start it again.", "推理引擎已关闭，请重新启动。")


def _step_error(error: Exception) -> EngineError:
    return EngineError(
        f"Computing the reply failed: {type(error).__name__}: {error}. Please report this.",
        f"计算回复时出错：{type(error).__name__}: {error}。请反馈此问题。",
    )


def _broken_numbers_error() -> EngineError:
    return EngineError(
        "The model's output is not a number (NaN or infinity). The weights or this prefix are damaged, or the dtype is "
        "too narrow; try another checkpoint, or --dtype bfloat16.",
        "模型输出不是有效数字（NaN 或无穷大）。权重或该前缀可能已损坏，或精度不足；"
        "请换一个检查点，或使用 --dtype bfloat16。",
    )
