"""The thread that computes for an engine, and how it ends.

Knows when a thread sleeps, on which device and with how many CPU threads it computes. Knows no requests.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import torch

from chatglm2.kernels.availability import computing_on


class Employer(Protocol):
    """Whom a worker works for."""

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more work."""

    def find_work(self) -> bool:
        """Whether there is something to do."""

    def work(self) -> None:
        """Do some of it; raises nothing."""


def start_worker(
    employer: Employer, wake: threading.Condition, device: torch.device, threads: int | None
) -> threading.Thread:
    """Start the thread that works for ``employer``, and sleeps on ``wake`` where there is nothing to do.

    While it sleeps it does not hold its employer: with the last one who does, both go.
    """
    released = threading.Event()
    # Weakly, and without the employer: what holds it would keep it.
    weakref.finalize(employer, _release, wake, released).atexit = False
    arguments = (weakref.ref(employer), wake, released, device, threads)
    worker = threading.Thread(target=_run, args=arguments, name="chatglm2-engine", daemon=True)
    worker.start()
    return worker


def _release(wake: threading.Condition, released: threading.Event) -> None:
    with wake:
        released.set()
        wake.notify_all()


@torch.inference_mode()
def _run(
    owner: weakref.ref[Employer],
    wake: threading.Condition,
    released: threading.Event,
    device: torch.device,
    threads: int | None,
) -> None:
    if threads is not None:
        compute_with(threads)
    with computing_on(device):
        while (employer := _await_work(owner, wake, released)) is not None:
            employer.work()
            del employer


def _await_work(owner: weakref.ref[Employer], wake: threading.Condition, released: threading.Event) -> Employer | None:
    with wake:
        while (employer := owner()) is not None and not employer.is_closed:
            if employer.find_work():
                return employer
            del employer
            if not released.is_set():  # it may have been the last reference
                wake.wait()
        return None


def compute_with(threads: int) -> None:
    """Give this thread so many CPU threads, and none else.

    torch remembers the number for threads that start later, so it is set back, on a thread that ends at once.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    other = threading.Thread(target=torch.set_num_threads, args=(usual,))
    other.start()
    other.join()
