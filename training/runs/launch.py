"""The trainer's process: started for a run, or kept in reserve and handed one.

A trainer spends most of its start importing. A page therefore keeps a process that has imported already and waits for a
run, which it takes over as its own. Knows processes and how to speak to one in reserve; `training/worker/standby.py` is
its other end. Decides nothing about runs.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from chatglm2.errors import RunError
from chatglm2.files import append_regular
from training.runs.events import PhaseEvent
from training.runs.storage import explaining_storage_errors
from training.runs.store import Run, Status
from training.settings.samples import PROJECT_ROOT

logger = logging.getLogger(__name__)
# What the process in reserve says: that it has imported everything, and that a run is its own from now on.
READY, TAKEN = b"r", b"t"
# One that does not answer in this time is swapped out or stuck; starting afresh is then no slower.
ANSWER_SECONDS = 2.0
# As long as importing may take on a busy machine.
IMPORT_SECONDS = 60.0
# A run that has just begun needs the cores that importing would take.
SECONDS_BEFORE_NEXT = 15.0
SECONDS_BETWEEN_LOOKS = 0.5
# What must be free for one to be kept: it takes about 0.3 GiB, and its training more.
NEEDED_FREE_BYTES = 2 * 2**30


def spawn(run: Run, environment: Mapping[str, str] | None = None) -> int:
    """Start a process that trains ``run``; returns its id. ``environment`` is in addition to this process's own."""
    run.append(PhaseEvent(phase="importing"))
    return spawn_module(("training.main", "--run", str(run.path.resolve())), run.log_file, run.name, environment)


def spawn_module(module: Sequence[str], log_file: Path, name: str, environment: Mapping[str, str] | None = None) -> int:
    """Start a process of its own that runs a module with its arguments and writes to ``log_file``; returns its id."""
    with explaining_storage_errors(log_file), append_regular(log_file) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=PROJECT_ROOT,
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _reap(process, name)
    return process.pid


class Standby:
    """Keeps a trainer in reserve, for one page; starts a fresh one where there is none or it does not answer."""

    def __init__(self, environment: Callable[[], Mapping[str, str]] = dict) -> None:
        self._environment = environment  # in addition to this process's own
        self._spare: _Spare | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def prepare(self) -> None:
        """Put a process in reserve if there is none, and memory for it; returns at once."""
        with self._lock:
            if self._closed.is_set() or (self._spare is not None and self._spare.is_alive):
                return
            self._spare = None
            if os.name != "posix" or psutil.virtual_memory().available < NEEDED_FREE_BYTES:
                return
            try:
                self._spare = _Spare(self._environment())
            except OSError as error:  # what it would have saved is time only
                logger.warning("No trainer could be kept in reserve: %s", error)

    def begin(self, run: Run) -> int:
        """Have ``run`` trained, by the process in reserve if that answers; returns the trainer's id."""
        with self._lock:
            spare, self._spare = self._spare, None
        taken = spare is not None and spare.hand_over(run)
        pid = spare.pid if spare is not None and taken else spawn(run, self._environment())
        threading.Thread(target=self._prepare_next, args=(run,), name="next trainer", daemon=True).start()
        return pid

    @property
    def pid(self) -> int | None:
        """The process in reserve, once it has imported everything; None while there is none."""
        with self._lock:
            return self._spare.pid if self._spare is not None and self._spare.is_ready else None

    def close(self) -> None:
        """Let the process in reserve go."""
        self._closed.set()
        with self._lock:
            if self._spare is not None:
                self._spare.dismiss()
                self._spare = None

    def _prepare_next(self, run: Run) -> None:
        """A little later: the run that begins comes first."""
        while _is_starting(run) and not self._closed.wait(SECONDS_BETWEEN_LOOKS):
            pass
        if not self._closed.wait(SECONDS_BEFORE_NEXT):
            self.prepare()


class _Spare:
    """A process in reserve, and the socket to it: when this end closes, however that happens, it ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._began = time.monotonic()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "training.main", "--standby", str(theirs.fileno())],
                cwd=PROJECT_ROOT,
                env=_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        _reap(self._process, "trainer in reserve")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has said so; what it said is not read yet."""
        return self.is_alive and bool(select.select([self._socket], [], [], 0)[0])

    def hand_over(self, run: Run) -> bool:
        """Give it a run to train. False if it did not take it; then it is gone, and will not."""
        message = json.dumps({"run": str(run.path.resolve())}) + "\n"
        try:
            if self._is_importing:
                return self._hand_over_later(run, message)
            if self.is_ready:
                self._socket.settimeout(ANSWER_SECONDS)
                self._socket.sendall(message.encode())
                if self._socket.recv(1) == READY and self._socket.recv(1) == TAKEN:
                    self._socket.close()
                    return True
        except OSError as error:
            logger.warning("The trainer in reserve does not answer (%s); a fresh one is started.", error)
        self.dismiss()
        return False

    @property
    def _is_importing(self) -> bool:
        return self.is_alive and not self.is_ready and time.monotonic() - self._began < IMPORT_SECONDS

    def _hand_over_later(self, run: Run, message: str) -> bool:
        """Leave the run for when everything is imported, which is sooner than another process would have done so."""
        run.append(PhaseEvent(phase="importing"))
        self._socket.settimeout(IMPORT_SECONDS)
        self._socket.sendall(message.encode())
        threading.Thread(target=self._await_answer, name="hand over", daemon=True).start()
        return True

    def _await_answer(self) -> None:
        """A process that never takes its run is ended: the run reads as interrupted then, and can be resumed."""
        try:
            if self._socket.recv(1) == READY and self._socket.recv(1) == TAKEN:
                self._socket.close()
                return
        except OSError as error:
            logger.warning("The trainer in reserve has not taken its run: %s", error)
        self.dismiss()

    def dismiss(self) -> None:
        """End it at once, so that it cannot take a run that another one trains."""
        self._socket.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Threads that spin while they wait would starve the page's model, which shares the cores. And passes of unlike
    # lengths leave up to a third of what torch takes of a GPU unused, unless its segments may grow.
    own = {"OMP_WAIT_POLICY": "PASSIVE", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    return {**own, **os.environ, **(extra or {}), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _reap(process: subprocess.Popen[bytes], name: str) -> None:
    """Collect the exit code, so that an ended process does not stay behind as a zombie."""
    threading.Thread(target=process.wait, name=f"reap {name}", daemon=True).start()


def _is_starting(run: Run) -> bool:
    try:
        return run.state().status is Status.STARTING
    except RunError:  # deleted meanwhile
        return False
