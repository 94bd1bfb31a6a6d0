"""A comparison's process: begun for a directory, asked to stop, and told how far it is by files alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from filelock import Timeout

from chatglm2.errors import ChatGLMError, RunError
from training.comparison.place import LOG_FILE, ComparisonPlace, ComparisonStore, Progress, Status
from training.comparison.request import ComparisonRequest
from training.runs.launch import spawn_module

SECONDS_BETWEEN_NOTES = 0.5


class StoppedError(Exception):
    """Somebody asked this comparison to stop."""


def start(
    store: ComparisonStore, request: ComparisonRequest, language: str, environment: Mapping[str, str] | None = None
) -> ComparisonPlace:
    """Begin a comparison in a process of its own.

    Raises:
        RunError: another one runs, or it cannot be started.
    """
    with _alone(store):
        place = store.create(request)
        _launch(place, language, environment)
    return place


def go_on(
    store: ComparisonStore, name: str, language: str, environment: Mapping[str, str] | None = None
) -> ComparisonPlace:
    """Continue one that ended before it was done; answers that are there are not asked for again.

    Raises:
        RunError: another one runs, it is done already, or it cannot be started.
    """
    with _alone(store):
        place = store.get(name)
        if place.progress().status is Status.FINISHED:
            raise RunError(f"{name} is done already.", f"{name} 已经完成。")
        _launch(place, language, environment)
    return place


def work(place: ComparisonPlace, language: str) -> int:
    """Be the process of a comparison until its end; returns the exit code."""
    from training.comparison.job import run_comparison  # imports torch

    with place.lease.held() as is_ours:
        if not is_ours:
            return 1
        watcher = _Notes(place)
        try:
            watcher.note(Status.RUNNING)
            run_comparison(place.request(), place.path, watcher, language)
            watcher.note(Status.FINISHED)
            return 0
        except StoppedError:
            watcher.note(Status.STOPPED)
            return 0
        except ChatGLMError as error:
            watcher.say(error.localized("en"), error.localized("zh"))
            watcher.note(Status.FAILED)
            return 1
        except Exception as error:
            name = type(error).__name__
            watcher.say(
                f"The evaluation ended with an error of the program ({name}); {place.path / LOG_FILE} has the details.",
                f"评估因程序错误而中止（{name}），详情见 {place.path / LOG_FILE}。",
            )
            watcher.note(Status.FAILED)
            raise


class _Notes:
    """The `Watcher` that writes into the directory, and ends the work when somebody asked for that."""

    def __init__(self, place: ComparisonPlace) -> None:
        self._place = place
        self._progress = Progress(status=Status.RUNNING)
        self._began: tuple[float, int] | None = None
        self._noted = 0.0

    def say(self, en: str, zh: str) -> None:
        self._progress = self._progress.model_copy(update={"message_en": en, "message_zh": zh})
        self.note(self._progress.status)

    def progress(self, done: int, total: int) -> None:
        if self._place.shall_stop:
            self._progress = self._progress.model_copy(update={"done": done, "total": total})
            raise StoppedError
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        since, before = self._began
        rate = (done - before) / (now - since) if now > since else 0.0
        changes = {"done": done, "total": total, "rate": rate, "message_en": "", "message_zh": ""}
        self._progress = self._progress.model_copy(update=changes)
        if done == total or now - self._noted >= SECONDS_BETWEEN_NOTES:
            self._noted = now
            self.note(Status.RUNNING)

    def note(self, status: Status) -> None:
        self._progress = self._progress.model_copy(update={"status": status})
        self._place.set_progress(self._progress)


def _launch(place: ComparisonPlace, language: str, environment: Mapping[str, str] | None) -> None:
    place.ask_to_stop(False)
    place.set_progress(Progress(status=Status.STARTING))
    arguments = ("training.comparison", str(place.path.resolve()), language)
    spawn_module(arguments, place.path / LOG_FILE, f"evaluation {place.name}", environment)


@contextlib.contextmanager
def _alone(store: ComparisonStore) -> Iterator[None]:
    """Nobody else begins one meanwhile, and none runs."""
    try:
        with store.lock():
            active = store.active()
            if active is not None:
                raise RunError(
                    f"{active.name} is being evaluated. One evaluation at a time: stop it first, or wait for it.",
                    f"{active.name} 正在评估。同一时间只能进行一个评估：请先停止它，或等它完成。",
                )
            yield
    except Timeout:
        raise RunError(
            "Another evaluation is being started at this moment. Try again in a few seconds.",
            "另一个评估正在启动，请几秒后再试。",
        ) from None
