"""The line of runs as the page keeps it: shown, let go on while nobody looks, and a run taken out.

Knows ``training``'s line. Knows neither Gradio nor how anything looks.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from chatglm2.errors import ChatGLMError
from training.queue import line
from training.runs.launch import Standby
from training.runs.store import RunStore

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Line:
    """Who waits, the next first, and whether a run that comes now has to wait, too."""

    names: tuple[str, ...]
    must_wait: bool


class RunLine:
    def __init__(self, runs: RunStore, standby: Standby) -> None:
        self._runs = runs
        self._standby = standby
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="line of runs", daemon=True)

    def keep_going(self) -> None:
        """Starts whoever is next, from now on until the page ends; no browser has to look."""
        if self._watcher.ident is None:
            self._watcher.start()

    def close(self) -> None:
        """Starts nobody any more; who waits goes on waiting."""
        self._closed.set()

    def look(self) -> Line:
        waiting = tuple(run.name for run in line.waiting(self._runs))
        return Line(waiting, line.must_wait(self._runs))

    def take_out(self, name: str) -> None:
        """Lets a run wait no longer.

        Raises:
            ChatGLMError: it does not wait.
        """
        line.leave(self._runs, name)

    def _watch(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_LOOKS):
            try:
                line.advance(self._runs, self._standby.begin)
            except ChatGLMError as error:
                logger.warning("The next run in line was not started: %s", error.en)
            except Exception:  # whatever it was, those in line would wait for ever
                logger.exception("The next run in line was not started")
