"""Memory that a process which answers lends to one that trains, and what they tell each other meanwhile.

Knows who asks for how much on which device, and whether somebody is waiting for an answer. Does not know what the
memory is taken from, nor what it is used for.

A loan is a connection: it ends when the borrower closes it or is gone, however it went.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from chatglm2.memory import peers
from chatglm2.memory.sharing import device_name

logger = logging.getLogger(__name__)

DEVICES = "devices"
# How often a lender looks whether a borrower is still there; what changes is told at once.
LOOK_SECONDS = 0.5
LOAN_SECONDS = 30.0
# How often a borrower looks for processes that came after it.
MEET_SECONDS = 2.0


class Activity:
    """Whether somebody waits for an answer; several threads may watch it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    def set(self, is_busy: bool) -> None:
        with self._changed:
            if is_busy != self._is_busy:
                self._is_busy = is_busy
                self._changed.notify_all()

    def wait_for_change(self, known: bool, timeout: float) -> bool:
        """The state once it is no longer ``known``, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_busy != known, timeout)
            return self._is_busy


class Source(Protocol):
    """Where memory is lent from."""

    activity: Activity

    def lend(self, wanted: int, borrower: object) -> int:
        """Free up to ``wanted`` bytes for a borrower until it gives them back; returns how many."""

    def take_back(self, borrower: object) -> None:
        """The borrower has no use for them any more."""


class Lender:
    """Lends a source's memory to the user's other processes on a device, for as long as it lives."""

    def __init__(self, source: Source, device: torch.device) -> None:
        directory = peers.subject_directory(DEVICES, device_name(device))
        self._listener = peers.Listener(directory, lambda connection: _lend(connection, source))

    def close(self) -> None:
        self._listener.close()


def _lend(connection: peers.Connection, source: Source) -> None:
    message, _ = connection.receive(peers.ANSWER_SECONDS)
    wanted = message.get("wants")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        connection.send({"refused": f"expected how many bytes are wanted, found {wanted!r}"})
        return
    borrower = object()
    try:
        lent = source.lend(wanted, borrower)
        busy = source.activity.is_busy
        connection.send({"lent": lent, "busy": busy, "pid": os.getpid()})
        logger.info("Lent %.2f GiB to a process that trains.", lent / 2**30)
        while not connection.is_closed():
            now = source.activity.wait_for_change(busy, LOOK_SECONDS)
            if now != busy:
                busy = now
                connection.send({"busy": busy})
    finally:
        source.take_back(borrower)


class Loan:
    """Memory that other processes freed for this one, until it is closed, and whether they are busy.

    A process that comes later, such as a page that was started again, has found the memory taken; it is heard, too.

    Attributes:
        lent: bytes.
    """

    def __init__(self, wanted: int, device: torch.device) -> None:
        self.lent = 0
        self._connections: list[peers.Connection] = []
        self._busy: set[int] = set()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        if not peers.can_talk():
            return
        directory = peers.subject_directory(DEVICES, device_name(device))
        for connection in peers.connections(directory):
            self._borrow(connection, wanted)
        threading.Thread(target=self._meet, args=(directory,), name="chatglm2-loans", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer of a process on this device."""
        return bool(self._busy)

    def wait_until_quiet(self, timeout: float) -> bool:
        """Wait until nobody waits for an answer, ``timeout`` seconds at most; returns whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def close(self) -> None:
        self._closed.set()
        for connection in self._connections:
            connection.close()

    def _meet(self, directory: Path) -> None:
        """Get to know who comes later."""
        while not self._closed.wait(MEET_SECONDS):
            known = {connection.path for connection in self._connections if connection.path is not None}
            for connection in peers.connections(directory, known):
                self._borrow(connection, 0)

    def _borrow(self, connection: peers.Connection, wanted: int) -> None:
        try:
            connection.send({"wants": wanted})
            message, _ = connection.receive(LOAN_SECONDS)
            self.lent += int(message["lent"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            logger.info("A process on this device lends nothing: %s", error)
            connection.close()
            return
        self._connections.append(connection)
        self._hear(connection, message)
        threading.Thread(target=self._listen, args=(connection,), name="chatglm2-loan", daemon=True).start()

    def _listen(self, connection: peers.Connection) -> None:
        try:
            while True:
                self._hear(connection, connection.receive()[0])
        except OSError:  # the lender is gone, or this loan is over
            self._hear(connection, {"busy": False})

    def _hear(self, connection: peers.Connection, message: peers.Message) -> None:
        with self._changed:
            (self._busy.add if message.get("busy") is True else self._busy.discard)(id(connection))
            self._changed.notify_all()


@contextmanager
def borrow(wanted: int, device: torch.device) -> Iterator[Loan]:
    """A `Loan` for as long as the block runs."""
    loan = Loan(wanted, device)
    try:
        yield loan
    finally:
        loan.close()
