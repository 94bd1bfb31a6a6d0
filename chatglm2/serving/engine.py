"""Serving: slots of a static key/value cache, and requests that join and leave a running batch.

Knows the thread that computes, and in which order. Knows no text, no conversations and no page.

One worker thread owns the cache. Each turn of its loop lets waiting requests into free slots, computes one chunk of
the prompts that are not finished, and one token for every row that is: a long prompt does not stop the others.

A slot holds a row's prefix in front and its text behind. Rows of unlike prefixes differ in nothing else, so base and
tuned answers are two rows of one batch, and no row can see another's prefix.
"""

from __future__ import annotations

import atexit
import copy
import functools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch
from torch import Tensor

from chatglm2.errors import ChatGLMError
from chatglm2.kernels.availability import computing_on
from chatglm2.memory.estimate import choose_slots, free_bytes, no_room, out_of_memory
from chatglm2.memory.lending import LOAN_SECONDS, Activity, Lender
from chatglm2.memory.peers import can_talk
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.model.prefix import OWN_PREFIX, Prefix
from chatglm2.serving.cache import build_cache
from chatglm2.serving.failures import broken_numbers, engine_broken, engine_closed, explain
from chatglm2.serving.request import EngineStats, FinishReason, Request
from chatglm2.serving.room import ConversationRoom
from chatglm2.serving.runners.base import DecodeBatch, PromptPart
from chatglm2.serving.runners.choice import build_runner, runs_on_pages
from chatglm2.serving.sampling_state import SamplingState
from chatglm2.serving.slots import Row, Slot, SlotTable
from chatglm2.serving.step import Step
from chatglm2.serving.stream import Stream
from chatglm2.serving.worker import start_worker

logger = logging.getLogger(__name__)

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
# Turns that fail one after another, memory aside, before the engine gives itself up.
MOST_FAILED_TURNS = 3


class Engine:
    """Continuous batching over one model.

    Args:
        model: the base model; its weights are shared by all requests.
        slots: requests that run together; more wait in order. 8, or fewer where memory is short, if not given.
        max_length: tokens of prompt and reply together, a slot; the prefix is not counted. 8192 or the model's own
            limit if not given.
        on_failure: told the reason, on the engine's thread, once it cannot compute any more: all streams have ended
            with it then, and what is submitted is refused with it.

    Its thread ends with `close`, or when nobody holds the engine or a stream of it any more.

    Raises:
        DeviceMemoryError: if the slots do not fit beside the weights.
    """

    def __init__(
        self,
        model: ChatGLMForConditionalGeneration,
        slots: int | None = None,
        max_length: int | None = None,
        on_failure: Callable[[ChatGLMError], None] | None = None,
    ) -> None:
        for name, number in (("slots", slots), ("max_length", max_length)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, found {number}")
        self.model = model
        self.max_length = min(max_length or DEFAULT_MAX_LENGTH, model.config.seq_length)
        config, dtype, device, capacity = model.config, model.dtype, model.device, self.max_length + PREFIX_ROOM
        paged = runs_on_pages(model)
        slots = choose_slots(config, dtype, device, capacity, slots, as_used=paged)
        with computing_on(device):
            self._cache = build_cache(config, dtype, device, slots, capacity, paged=paged)
            self._build_runner(model)
        self._room = ConversationRoom(self._cache, lambda: free_bytes(device))
        self._slots = SlotTable(slots)
        self._sampling = SamplingState(slots, model.config.padded_vocab_size, model.device)
        self._rows: list[Row] = []  # in the order of their slots
        self._step: Step | None = None  # started, its tokens not yet read
        self._waiting: deque[Stream] = deque()
        self._errands: deque[tuple[Callable[[], int], Future[int]]] = deque()  # for the worker, between two steps
        self.activity = Activity()
        self._lender: Lender | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._failure: ChatGLMError | None = None
        self._failed_turns = 0  # one after another
        self._on_failure = on_failure
        self._worker = start_worker(self, self._wake, device, self._runner.threads)
        # A thread that is inside torch when the interpreter ends takes the whole process down with it.
        self._at_exit = functools.partial(_close_living, weakref.ref(self))
        atexit.register(self._at_exit)
        weakref.finalize(self, atexit.unregister, self._at_exit).atexit = False

    def submit(self, request: Request) -> Stream:
        """Queue a request and return its stream at once.

        Raises:
            PromptError: the prompt is empty, leaves no room for a reply, or is not of this model.
            RequestError: the prefix does not fit the model.
            EngineError: the engine is closed.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Stream]:
        """`submit` many at one moment: the same ones then share the same batches, and so round alike, every time.

        If one is refused, none is computed.
        """
        if any(request.prefix is OWN_PREFIX for request in requests):
            own = self.model.own_prefix()
            requests = [replace(item, prefix=own) if item.prefix is OWN_PREFIX else item for item in requests]
        for request in requests:
            request.check(self.model.config, self.text_limit(request.prefix))
        streams = [Stream(request, self._cancel) for request in requests]
        with self._wake:
            self._require_open()
            if streams:
                self._waiting.extend(streams)
                self.activity.set(True)
                self._wake.notify()
        return streams

    def text_limit(self, prefix: Prefix | None) -> int:
        """Tokens of prompt and reply together behind ``prefix``: a long one takes columns from the text."""
        return min(self.max_length, self._cache.capacity - (prefix.length if prefix is not None else 0))

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

    def place_in_line(self, stream: Stream) -> int:
        """1 for the request that is let in next, 2 for the one behind it; 0 for one that does not wait any more."""
        with self._wake:
            return self._waiting.index(stream) + 1 if stream in self._waiting else 0

    @property
    def failure(self) -> ChatGLMError | None:
        """Why it cannot compute any more; None while it can, and when it was closed."""
        return self._failure

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be submitted any more."""
        return self._closed

    def close(self, timeout: float | None = None) -> bool:
        """Cancel everything, at once, and stop the worker.

        Args:
            timeout: seconds to wait for the step that is being computed; without it, as long as it takes.

        Returns:
            Whether the worker has stopped.
        """
        self._end_all("cancelled")
        if self._lender is not None:
            self._lender.close()
        if threading.current_thread() is not self._worker:
            self._worker.join(timeout)
        atexit.unregister(self._at_exit)
        return not self._worker.is_alive()

    def open_to_borrowers(self) -> None:
        """Let the user's other processes on the device borrow memory, and hear whether somebody waits for an answer."""
        if can_talk():
            self._lender = Lender(self, self.model.device)

    def lendable_bytes(self) -> int:
        """What a borrower would get now: what is free, and what idle conversations would give up."""
        with self._wake:
            idle = sum(self._cache.mapped_bytes(slot.index) for slot in self._slots.idle)
        return free_bytes(self.model.device) + idle

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
            self._require_open()
            self._errands.append((errand, future))
            self._wake.notify()
        try:
            return future.result(LOAN_SECONDS)
        except TimeoutError:
            if future.cancel():  # nobody would take back what it lent
                raise
            return future.result()

    def _require_open(self) -> None:
        if self._closed:
            raise copy.copy(self._failure) if self._failure is not None else engine_closed()

    def _build_runner(self, model: ChatGLMForConditionalGeneration) -> None:
        try:
            self._cache.provide(0, min(WARM_UP_COLUMNS, self._cache.capacity))
            with torch.inference_mode():
                self._runner = build_runner(model, self._cache, self.max_length)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, model.device) from error
        self._cache.withdraw(0)

    def _cancel(self, stream: Stream) -> None:
        with self._wake:
            if stream in self._waiting:
                self._waiting.remove(stream)
            stream.finish("cancelled")
            self._wake.notify()

    def _end_all(self, reason: FinishReason, error: ChatGLMError | None = None) -> None:
        """Take nothing any more, and end every stream and every errand now; the step that runs is for nobody."""
        with self._wake:
            if self._closed:
                return
            self._closed, self._failure = True, error
            streams = [*self._waiting, *(row.stream for row in self._rows)]
            futures = [future for _, future in self._errands]
            self._waiting.clear()
            self._errands.clear()
            self.activity.set(False)
            self._wake.notify()
        for stream in streams:
            stream.finish(reason, error)
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(engine_closed())

    # The worker's side. Everything below runs on its thread only.

    def find_work(self) -> bool:
        """Whether there is something to do; borrowers of memory hear where there is not."""
        has_work = bool(self._waiting or self._rows or self._errands)
        if not has_work:
            self.activity.set(False)
        return has_work

    def work(self) -> None:
        """One turn; raises nothing, whatever breaks."""
        try:
            self._take_turn()
        except BaseException as error:
            self._recover(error)

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
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(errand())
            except Exception as error:
                future.set_exception(error)

    def _admit(self) -> None:
        """Let waiting requests into free slots, each into the one that saves it most, while there is memory."""
        with self._wake:
            while self._waiting and self._slots.has_free and self._try_to_enter(self._waiting[0]):
                self._waiting.popleft()
            self._rows.sort(key=lambda row: row.slot.index)

    def _try_to_enter(self, stream: Stream) -> bool:
        """As `_enter`; a request that cannot be let in ends with the reason, and leaves its slot to others."""
        slot = self._slots.choose(stream.request)
        try:
            return self._enter(stream, slot)
        except Exception as error:
            stream.finish("error", explain(error, self.model.device))
            entered = next((row for row in self._rows if row.slot is slot), None)
            if entered is None:
                self._slots.release(slot, forget=True)
            else:
                entered.note_logits(False)
                self._drop_finished()
            return True

    def _enter(self, stream: Stream, slot: Slot) -> bool:
        """Give a request a slot, or its refusal; False where it has to wait for another one's memory."""
        request = stream.request
        limit = self.text_limit(request.prefix)
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
        row = Row(stream, slot, wanted, has_new_prefix=needs_prefix)
        self._rows.append(row)
        if needs_prefix or not request.prefix_length:  # without one, what an earlier one added to logits goes
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
        step = Step(rows, tokens, torch.stack((tokens, healthy)))
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
        self._failed_turns = 0
        for row, token, is_healthy in zip(step.rows, tokens, healthy, strict=True):
            if fed_on:
                row.slot.tokens.append(token)
            self._hand_out(row, token, bool(is_healthy))

    def _hand_out(self, row: Row, token: int, is_healthy: bool) -> None:
        stream = row.stream
        row.note_logits(is_healthy)
        if not is_healthy:
            stream.finish("error", broken_numbers())
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
                # What is not a number would reach later rows even through a mask.
                kept, slot = row.sound_tokens, row.slot
                if kept is None:
                    self._cache.erase(slot.index)
                elif kept < len(slot.tokens):
                    self._cache.erase(slot.index, row.prefix_length + kept)
                    del slot.tokens[kept:]
                self._rows.remove(row)
                self._slots.release(slot, forget=kept is None)

    def _recover(self, error: BaseException) -> None:
        """A step broke, out of memory most likely: every running request ends with the reason, waiting ones go on.

        Where the device cannot even clear up after it, or steps go on breaking, the engine ends.
        """
        reason = explain(error, self.model.device)
        self._step = None
        for row in self._rows:
            row.note_logits(False)
            row.stream.finish("error", reason)
        if not isinstance(error, torch.OutOfMemoryError):
            self._failed_turns += 1
        try:
            self._drop_finished()
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)  # a broken device says so here at the latest
            is_usable = isinstance(error, Exception) and self._failed_turns < MOST_FAILED_TURNS
        except Exception:
            logger.exception("Clearing up after a failed step failed, too")
            is_usable = False
        if not is_usable:
            broken = engine_broken(reason)
            self._end_all("error", broken)
            if self._on_failure is not None:
                self._on_failure(broken)


def _close_living(engine: weakref.ref[Engine]) -> None:
    living = engine()
    if living is not None:
        living.close()
