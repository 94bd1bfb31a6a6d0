"""Whether a process that was started earlier, perhaps by another program or on another machine, is still at work.

A process id alone does not tell: ids are reused, and soon after a container restart. The moment of its start, counted
from the machine's boot and so untouched by clock changes, tells them apart. Neither means anything elsewhere: whoever
trains a run therefore holds a file in it locked, and touches it while it is awake.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

TOLERANCE_SECONDS = 0.02  # the kernel counts in hundredths of a second
LEASE_FILE = ".lease"
BEAT_SECONDS = 1.0
# Who has not touched its file for so long is stopped, swapped out or gone.
SILENT_SECONDS = 10.0
# A trainer that was just asked to go, or killed, may need this long to let go.
LEAVE_SECONDS = 5.0


def start_time(pid: int) -> float | None:
    """When process ``pid`` began, in seconds since boot; None if it is not running. A zombie is not running."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except (psutil.Error, OverflowError, ValueError):
        return None


def is_running(pid: int | None, started_at: float | None) -> bool:
    """Whether the process that had ``pid`` and began at ``started_at`` is still running."""
    if pid is None or started_at is None:
        return False
    found = start_time(pid)
    return found is not None and abs(found - started_at) <= TOLERANCE_SECONDS


@cache
def this_boot() -> str:
    """This machine since it started, and this container of it: where a process id means the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return str(int(psutil.boot_time()))


def this_host() -> str:
    """This machine's name."""
    return socket.gethostname()


def describe_silence(pid: int | None, host: str, seconds: float) -> tuple[str, str]:
    """What a person should know of a trainer that does not show that it is awake, in English and Chinese."""
    return (
        f"The trainer, process {pid} on {host}, has not answered for {seconds:.0f} s. It may be suspended (kill -CONT "
        f"{pid} lets it go on), or its machine is out of memory.",
        f"训练进程（{host} 上的 {pid}）已 {seconds:.0f} 秒没有响应。它可能被挂起（可用 kill -CONT {pid} 恢复），"
        "或所在机器内存不足。",
    )


class Lease:
    """The right to train a run, which one process has, on whichever machine that sees the run's directory."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / LEASE_FILE

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lease, and show that this process is awake; False if another process keeps it."""
        lock = FileLock(self._file)
        try:
            lock.acquire(timeout=LEAVE_SECONDS)
        except Timeout:
            yield False
            return
        try:
            with self._beating():
                yield True
        finally:
            lock.release()

    def is_held(self, patience_seconds: float = 0.0) -> bool:
        """Whether somebody holds it, still after ``patience_seconds``."""
        if not self._file.is_file():
            return False
        try:
            with FileLock(self._file, timeout=patience_seconds):
                return False
        except Timeout:
            return True
        except OSError:  # of somebody else, or on a disk that can only be read: this process could not train there
            return False

    def seconds_silent(self) -> float | None:
        """How long its holder has not shown that it is awake; None if there never was one."""
        try:
            return time.time() - self._file.stat().st_mtime
        except OSError:
            return None

    def touch(self) -> None:
        """Somebody is at work, or about to be; silence counts from now."""
        with contextlib.suppress(OSError):
            self._file.touch()

    @contextlib.contextmanager
    def _beating(self) -> Iterator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                self.touch()

        self.touch()
        thread = threading.Thread(target=beat, name="awake", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
