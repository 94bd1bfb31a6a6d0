"""Whether a process that was started earlier, perhaps by another program, is still the same one and still running.

A process id alone does not tell: ids are reused, and soon after a container restart. The moment of its start, counted
from the machine's boot and so untouched by clock changes, tells them apart.
"""

from __future__ import annotations

import psutil

TOLERANCE_SECONDS = 0.02  # the kernel counts in hundredths of a second


def start_time(pid: int) -> float | None:
    """When process ``pid`` began, in seconds since boot; None if it is not running. A zombie is not running."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except psutil.Error:
        return None


def is_running(pid: int | None, started_at: float | None) -> bool:
    """Whether the process that had ``pid`` and began at ``started_at`` is still running."""
    if pid is None or started_at is None:
        return False
    found = start_time(pid)
    return found is not None and abs(found - started_at) <= TOLERANCE_SECONDS
