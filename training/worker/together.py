"""One training in several processes, which torchrun started: who creates the run, who writes, and how all end.

The first process does what `process.py` and `main.py` do for a training of one process, and speaks for all. Knows no
model; `worker.py` trains.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chatglm2.errors import ChatGLMError
from training.distributed.ranks import Ranks, join_ranks, leave_ranks
from training.runs.events import Event, FailedEvent
from training.runs.store import Run, RunState
from training.settings.train import TrainingSettings
from training.worker.alone import carry_out, conclude, failed_with, holding, prepare_logging, stop_on_signals

Follow = Callable[[Run, int], int]


class ObservedRun(Run):
    """A run that another process writes: reads as the first process read it, and keeps its own words to itself."""

    def __init__(self, path: Path, settings: TrainingSettings, resume_step: int | None) -> None:
        super().__init__(path)
        self._settings = settings
        self._resume_step = resume_step

    def settings(self) -> TrainingSettings:
        return self._settings

    def state(self) -> RunState:
        return RunState(resume_step=self._resume_step)

    def update(self, *, settings: TrainingSettings | None = None, **changes: Any) -> None:
        """Nothing: the first process does."""

    def append(self, event: Event) -> None:
        """Nothing: the first process does."""

    def set_stop_request(self, wanted: bool) -> None:
        """Nothing: the first process hears it."""

    def reserve_space(self) -> None:
        """Nothing: the first process needs it for the last word."""


def train_together(
    device: str, begin: Callable[[], tuple[Run, int]], follow: Follow, abandon: Callable[[int], Any]
) -> tuple[Run | None, int]:
    """This process's part of a training.

    Args:
        device: what ``--device`` says.
        begin: creates or resumes the run, in the first process only; gives it and where its new events begin.
        follow: shows a run's events until it ends, and says the exit code; in the first process only.
        abandon: ends this process at once, with an exit code: nothing else interrupts a collective.

    Returns:
        In the first process the run, and the exit code.

    Raises:
        ChatGLMError: in the first process, if training cannot begin.
    """
    ranks = join_ranks(device)
    try:
        with ExitStack() as held:
            run, offset = _agree_on_run(ranks, begin, held)
            if run is None:
                return None, 2
            level = logging.INFO if ranks.is_first else logging.WARNING
            prepare_logging(run.log_file if ranks.is_first else None, level)
            stop_on_signals(run)
            code = _train(run, ranks, offset, follow, abandon)
            return (run if ranks.is_first else None), code
    finally:
        leave_ranks()


def _agree_on_run(ranks: Ranks, begin: Callable[[], tuple[Run, int]], held: ExitStack) -> tuple[Run | None, int]:
    """The run: the first process's own, an observed one in the others; None there if it cannot be had.

    The first process's right to train it is put into ``held``.
    """
    if not ranks.is_first:
        told = ranks.share_first(None)
        return (ObservedRun(*told) if told is not None else None), 0
    try:
        run, offset = begin()
        held.enter_context(holding(run))
    except ChatGLMError:
        ranks.share_first(None)
        raise
    told = run.path.resolve(), run.settings(), run.state().resume_step
    ranks.share_first(told)
    return run, offset


def _train(run: Run, ranks: Ranks, offset: int, follow: Follow, abandon: Callable[[int], Any]) -> int:
    telling = threading.Lock()
    told = threading.Event()

    def give_up(words: dict[str, Any]) -> None:
        """Another process failed, and this one may wait for it for ever."""
        with telling:
            if told.is_set():
                return
            if ranks.is_first:
                conclude(run, failed_with(run, words))
                viewer.join()
            sys.stdout.flush()
            abandon(1)

    viewer = threading.Thread(target=follow, args=(run, offset), name="showing the run", daemon=True)
    if ranks.is_first:
        viewer.start()
    with ranks.watching(give_up):
        ended = carry_out(run, ranks)
        with telling:
            told.set()
            if isinstance(ended, FailedEvent):
                ended = _first_failure(run, ended, ranks)
            if ranks.is_first:
                conclude(run, ended)
                viewer.join()
            if isinstance(ended, FailedEvent):  # to part in peace from processes that are gone may take for ever
                sys.stdout.flush()
                abandon(1)
    return 0


def _first_failure(run: Run, mine: FailedEvent, ranks: Ranks) -> FailedEvent:
    """Why all end: what another process said before, or mine."""
    told = ranks.failure()
    if told is not None:
        return failed_with(run, told)
    ranks.report_failure({"step": mine.step, "en": mine.en, "zh": mine.zh})
    return mine
