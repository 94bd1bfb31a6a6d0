"""Room for whoever waits for an answer on the device that a run trains on: when the trainer pauses, and for how long.

Knows who is busy, the run's ``share`` and the trainer's own pauses. Does not know what a pass computes, nor how the
others come to be busy.

A run in several processes has no gate: one that pauses would hold up all, each at another place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

import torch

from chatglm2 import ChatGLMForConditionalGeneration
from training.loop.meter import Meter
from training.runs.store import Run
from training.settings.train import Share

# Short, so that a run that trains beside a busy page is never silent for long, and chat never slow for long.
WINDOW_SECONDS = 5.0
# Of every window, and so of every minute; the rest is work, so that a busy page cannot stop a run.
MOST_PAUSED_SECONDS = 0.8 * WINDOW_SECONDS
LEAST_WORK_SECONDS = WINDOW_SECONDS - MOST_PAUSED_SECONDS
# In turns, a pause is as long as the pass before it, which may be long: still no more than four fifths of a minute.
LONGEST_TURN_SECONDS = 48.0
# How often the run's directory is looked at, also during a pause.
LOOK_SECONDS = 1.0


class Neighbours(Protocol):
    """Who else computes on this device; a `chatglm2.memory.lending.Loan` is one."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""

    def wait_until_quiet(self, timeout: float) -> bool:
        """Wait until nobody does, ``timeout`` seconds at most; returns whether it is so."""


class PausePolicy:
    """Never more than `MOST_PAUSED_SECONDS` of pauses in any `WINDOW_SECONDS`, wherever they begin."""

    def __init__(self) -> None:
        self._pauses: deque[tuple[float, float]] = deque()

    def note(self, began: float, ended: float) -> None:
        """Remember a pause; they come in the order of time."""
        self._pauses.append((began, ended))
        while ended - self._pauses[0][1] > WINDOW_SECONDS:
            self._pauses.popleft()

    def seconds_allowed(self, now: float) -> float:
        """How long a pause that begins ``now`` may last.

        Backwards from now the work is gathered until it is enough for a window: one that begins where that work began
        has no room for more, so the pause ends with it.
        """
        missing, moment = LEAST_WORK_SECONDS, now
        for began, ended in reversed(self._pauses):
            worked = moment - ended
            if worked >= missing:
                break
            missing -= worked
            moment = began
        return max(moment - missing + WINDOW_SECONDS - now, 0.0)


class Gate:
    """Lets the trainer's work through, or holds it back for a while.

    ``chat-first`` waits while somebody waits for an answer, also between a pass's layers, as long as `PausePolicy`
    allows; ``even`` waits as long as the last pass took, before the next one; ``training-first`` never waits. Who asks
    the run to stop is not kept waiting either. Pauses are no part of the time that the meter says of a step.

    Args:
        run: whose ``share`` counts, also where it is changed meanwhile.
        neighbours: on this device; None lets everything through.
        meter: is told of the pauses.
        device: of the work.
        clock: in seconds.
    """

    def __init__(
        self,
        run: Run,
        neighbours: Neighbours | None,
        meter: Meter,
        device: torch.device,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._run = run
        self._neighbours = neighbours
        self._meter = meter
        self._device = device
        self._clock = clock
        self._policy = PausePolicy()
        self._is_in_pass = False
        self._last_pass_seconds = 0.0
        self._paused_seconds = 0.0
        self._looked = -LOOK_SECONDS
        self._share: Share = "chat-first"
        self._ends = False

    def watch_layers(self, model: ChatGLMForConditionalGeneration) -> None:
        """Make room before each layer of a pass, and before each that is computed again in the backward pass."""
        if self._neighbours is None:
            return
        for block in model.transformer.encoder.blocks():  # a layer's norm is called however the layer is
            block.input_layernorm.register_forward_pre_hook(self._before_layer)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A pass, once there is room for it."""
        self.make_room()
        began, paused = self._clock(), self._paused_seconds
        self._is_in_pass = True
        try:
            yield
        finally:
            self._is_in_pass = False
            self._last_pass_seconds = self._clock() - began - (self._paused_seconds - paused)

    def make_room(self) -> None:
        """Wait as ``share`` says, before a piece of work."""
        if self._neighbours is None or not self._neighbours.is_busy:
            return
        self._look()
        if self._share == "chat-first":
            self._pause(self._policy.seconds_allowed(self._clock()))
        elif self._share == "even":
            self._pause(min(self._last_pass_seconds, LONGEST_TURN_SECONDS))

    def _before_layer(self, *_: Any) -> None:
        if not self._is_in_pass or self._neighbours is None or not self._neighbours.is_busy:
            return
        self._look()
        if self._share == "chat-first":
            self._pause(self._policy.seconds_allowed(self._clock()))

    def _pause(self, seconds: float) -> None:
        """Wait until the others are quiet, ``seconds`` at most."""
        assert self._neighbours is not None
        if self._ends or seconds <= 0:
            return
        if self._device.type == "cuda":  # what is queued already would go on beside the others
            torch.cuda.synchronize(self._device)
        began, share = self._clock(), self._share
        deadline = began + seconds
        with self._meter.set_aside():
            while (left := deadline - self._clock()) > 0 and self._share == share and not self._ends:
                if self._neighbours.wait_until_quiet(min(left, LOOK_SECONDS)):
                    break
                self._look()
        ended = self._clock()
        self._paused_seconds += ended - began
        self._policy.note(began, ended)

    def _look(self) -> None:
        """What the run's directory says now; not more often than it can matter."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._share, self._ends = self._run.share(), self._run.stop_requested()
