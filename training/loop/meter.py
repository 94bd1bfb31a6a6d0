"""What the trainer counts and its callbacks tell: tokens, losses, and how long steps take without what is set aside.

Knows one clock. Does not know who counts, nor who is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from torch import Tensor

MARKS = 1000


@dataclass(frozen=True)
class Pace:
    """How fast the steps since the last reading were, and how long the steps to come will take, all included."""

    seconds_per_step: float
    tokens_per_second: float
    seconds_left: float


@dataclass
class Meter:
    """Shared by the trainer, which counts, and its callbacks, which read.

    Attributes:
        task_rows, general_rows: of an epoch.
        trained_parameters: how many numbers learn.
        tokens: of this process, since the last reading.
    """

    task_rows: int
    general_rows: int
    trained_parameters: int
    tokens: int = 0
    _losses: list[Tensor] = field(default_factory=list)
    _marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MARKS))  # steps, and when
    _first_step: int = 0
    _window: float = 0.0
    _read_step: int = 0
    _is_aside: bool = False

    def begin(self, step: int) -> None:
        """Training begins, or goes on, after ``step``."""
        self._window = monotonic()
        self._first_step = self._read_step = step
        self._marks.clear()
        self._marks.append((step, self._window))

    def keep_loss(self, loss: Tensor) -> None:
        """The loss of one batch of the step that is being taken."""
        self._losses.append(loss)

    def take_losses(self) -> list[Tensor]:
        """The losses of the step that is being taken; the next step's begin."""
        losses, self._losses = self._losses, []
        return losses

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Leave what is done here, which is no step, out of the time that steps take; inside another, nothing more."""
        if self._is_aside:
            yield
            return
        began, self._is_aside = monotonic(), True
        try:
            yield
        finally:
            self._window += monotonic() - began
            self._is_aside = False

    def read(self, step: int, total_steps: int, tokens: int) -> Pace:
        """The pace at ``step``, where ``tokens`` were read since the last reading; the next reading's time begins.

        Seconds a step and tokens a second count what steps take alone. The time left counts everything, pauses for
        whoever waits for an answer included, as if it went on like the later half of the steps: the first ones compile.
        """
        now = monotonic()
        seconds = now - self._window
        pace = Pace(
            seconds_per_step=seconds / max(step - self._read_step, 1),
            tokens_per_second=tokens / max(seconds, 1e-9),
            seconds_left=self._mean_seconds(step, now) * max(total_steps - step, 0),
        )
        self._window, self._read_step, self.tokens = now, step, 0
        return pace

    def _mean_seconds(self, step: int, now: float) -> float:
        """What a step of the later half has taken, all included."""
        self._marks.append((step, now))
        middle = (self._first_step + step) / 2
        while len(self._marks) > 2 and self._marks[1][0] <= middle:
            self._marks.popleft()
        since_step, since = self._marks[0]
        return (now - since) / max(step - since_step, 1)
