"""Memory is lent for as long as the borrower lives, and both know whether somebody waits for an answer."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import FORKS

from chatglm2.memory import lending, peers
from chatglm2.memory.lending import Activity, Lender, Loan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes talk on Linux only")

CPU = torch.device("cpu")


class Borrower:
    """A process that borrows, and says for every number of seconds whether it became quiet meanwhile."""

    def __init__(self, wanted: int) -> None:
        self._pipe, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=_borrow, args=(wanted, dict(os.environ), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def heard(self) -> Any:
        return self._pipe.recv()

    def wait_until_quiet(self, seconds: float) -> None:
        self._pipe.send(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _borrow(wanted: int, environment: dict[str, str], pipe: Connection) -> None:
    os.environ.update(environment)
    loan = Loan(wanted, CPU)
    pipe.send((loan.lent, loan.is_busy))
    while True:
        pipe.send(loan.wait_until_quiet(pipe.recv()))


class Purse:
    """A source with so many bytes to lend."""

    def __init__(self, bytes_: int) -> None:
        self.activity = Activity()
        self.left = bytes_
        self.loans: dict[object, int] = {}

    def lend(self, wanted: int, borrower: object) -> int:
        self.loans[borrower] = lent = min(wanted, self.left)
        self.left -= lent
        return lent

    def take_back(self, borrower: object) -> None:
        self.left += self.loans.pop(borrower, 0)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.RUNTIME_VARIABLE, str(tmp_path))


Borrow = Callable[[int], Borrower]


@pytest.fixture
def borrow() -> Iterator[Borrow]:
    """Starts processes that borrow."""
    with contextlib.ExitStack() as stack:

        def start(wanted: int) -> Borrower:
            borrower = Borrower(wanted)
            stack.callback(borrower.kill)
            return borrower

        yield start


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_loan_ends_with_the_process_that_has_it_however_it_went(borrow: Borrow) -> None:
    purse = Purse(100)
    lender = Lender(purse, CPU)
    purse.activity.set(True)
    borrower = borrow(60)
    assert borrower.heard() == (60, True)
    assert purse.left == 40
    borrower.kill()
    wait_for(lambda: purse.left == 100)
    lender.close()


def test_a_borrower_hears_at_once_when_the_lender_falls_quiet_and_when_it_does_not(borrow: Borrow) -> None:
    purse = Purse(0)
    lender = Lender(purse, CPU)
    purse.activity.set(True)
    borrower = borrow(0)
    assert borrower.heard() == (0, True)
    borrower.wait_until_quiet(0.05)
    assert not borrower.heard()
    borrower.wait_until_quiet(60)
    purse.activity.set(False)
    began = time.monotonic()
    assert borrower.heard()
    assert time.monotonic() - began < lending.LOOK_SECONDS  # told, not found out
    lender.close()


def test_a_lender_that_comes_later_is_heard_too(borrow: Borrow) -> None:
    first = Purse(50)
    lender = Lender(first, CPU)
    borrower = borrow(50)
    assert borrower.heard() == (50, False)
    lender.close()
    again = Purse(50)
    again.activity.set(True)
    lender = Lender(again, CPU)
    wait_for(lambda: bool(again.loans))
    assert again.left == 50  # it found the memory taken already

    def is_heard() -> bool:
        borrower.wait_until_quiet(0.05)
        return not borrower.heard()

    wait_for(is_heard)  # the loan is there a moment before the borrower knows
    lender.close()


def test_nobody_there_lends_nothing() -> None:
    loan = Loan(100, CPU)
    assert loan.lent == 0 and not loan.is_busy and loan.wait_until_quiet(0)
    loan.close()


def test_a_lender_that_dies_is_busy_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    purse = Purse(10)
    purse.activity.set(True)
    monkeypatch.setattr(peers, "connections", lambda directory, known=(): [] if known else [ours])
    ours, theirs = (peers.Connection(end) for end in peers.socket.socketpair())
    theirs.send({"lent": 4, "busy": True})
    loan = Loan(10, CPU)
    assert loan.lent == 4 and loan.is_busy
    theirs.close()
    assert loan.wait_until_quiet(10)
    loan.close()
