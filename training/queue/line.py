"""The line of runs that wait to be trained. It is what their own files say, so nobody has to be there to keep it.

Whoever looks may let it go on: a page now and then, a trainer at its end. Of two who do so at once, one does it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

from chatglm2.errors import RunError
from training.runs import process
from training.runs.launch import spawn
from training.runs.liveness import this_boot
from training.runs.process import Begin
from training.runs.store import Run, RunState, RunStore, Status

logger = logging.getLogger(__name__)
# A trainer that has said its last word still holds its memory; longer than this it only hangs.
LEAVING_SECONDS = 60.0


def waiting(store: RunStore) -> list[Run]:
    """The runs in line, the one that is trained next first."""
    found = [(state.queued_at, run.name, run) for run, state in _states(store) if state.status is Status.QUEUED]
    return [run for *_, run in sorted(found, key=lambda item: item[:2])]


def untrained(store: RunStore) -> set[str]:
    """The names of runs that wait in line, or were taken out of it and not trained since."""
    return {
        run.name
        for run, state in _states(store)
        if state.status is Status.QUEUED or (state.status is Status.STOPPED and state.queued_at and state.pid is None)
    }


def must_wait(store: RunStore) -> bool:
    """Whether a run that comes now has to wait: one is being trained, or others wait already."""
    return store.active() is not None or bool(waiting(store))


def join(run: Run) -> None:
    """Put a run at the end of the line: a new one, or one that has ended and shall go on.

    Raises:
        RunError: it is being trained.
    """
    with process.starting(RunStore(run.path.parent)):
        state = run.state()
        if run.lease.is_held() or (state.status.is_active and state.pid):
            raise RunError(f"{run.name} is being trained already.", f"{run.name} 正在训练中。")
        run.update(
            status=Status.QUEUED,
            pid=None,
            queued_at=time.time(),
            message_en="Waits in line; it is trained once those before it have ended.",
            message_zh="正在排队，前面的训练结束后自动开始。",
        )


def leave(store: RunStore, name: str) -> None:
    """Take a run out of the line; it can be resumed later.

    Raises:
        RunError: it is not in line.
    """
    run = store.get(name)
    with process.starting(store):
        status = run.state().status
        if status is not Status.QUEUED:
            raise RunError(f"{name} is not in line: it is {status}.", f"{name} 不在队列中（状态：{status}）。")
        run.update(
            status=Status.STOPPED,
            message_en="Taken out of the line before it was trained; Resume starts it, or puts it in line again.",
            message_zh="在训练前被移出队列；点击“继续训练”可重新开始或再次排队。",
        )


def advance(store: RunStore, begin: Begin = spawn) -> Run | None:
    """Start the run that waits longest, if nothing is being trained; one that cannot be started stops nobody.

    Args:
        store: the runs.
        begin: has a run trained by a process, and gives that one's id.

    Returns:
        The run that was started.

    Raises:
        RunError: somebody else is starting a run, or the store cannot be written.
    """
    if not waiting(store):
        return None
    with process.starting(store):
        if store.active() is not None or _is_leaving(store):
            return None
        for run in waiting(store):
            try:
                steps = run.resumable_checkpoints()
                process.hand_over(run, begin, steps[-1].step if steps else None)
            except RunError as error:
                logger.warning("%s, next in line, could not be started: %s", run.name, error.en)
                with contextlib.suppress(RunError):  # deleted meanwhile, or its disk is full: it waits on
                    run.update(status=Status.FAILED, message_en=error.en, message_zh=error.zh)
            else:
                return run
    return None


def _states(store: RunStore) -> list[tuple[Run, RunState]]:
    found = []
    for run in store.list():
        with contextlib.suppress(RunError):
            found.append((run, run.state()))
    return found


def _is_leaving(store: RunStore) -> bool:
    """Whether a trainer other than this process has ended its run, but not itself."""
    return any(
        state.pid != os.getpid()
        and state.boot in ("", this_boot())
        and time.time() - state.updated_at < LEAVING_SECONDS
        and process.is_alive(state)
        for _, state in _states(store)
    )
