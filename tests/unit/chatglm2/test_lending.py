"""Memory is lent for as long as the borrower lives, and both know whether somebody waits for an answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chatglm2.memory import lending, peers
from chatglm2.memory.lending import Activity, Lender, Loan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes talk on Linux only")

CPU = torch.device("cpu")
BORROWER = """
import sys, torch
from chatglm2.memory.lending import Loan
loan = Loan(int(sys.argv[1]), torch.device("cpu"))
print(loan.lent, loan.is_busy, flush=True)
for word in sys.stdin:
    print(loan.wait_until_quiet(float(word)), flush=True)
"""


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


def borrower(wanted: int) -> subprocess.Popen[str]:
    repository = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", BORROWER, str(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_loan_ends_with_the_process_that_has_it_however_it_went() -> None:
    purse = Purse(100)
    lender = Lender(purse, CPU)
    purse.activity.set(True)
    process = borrower(60)
    assert process.stdout is not None and process.stdout.readline() == "60 True\n"
    assert purse.left == 40
    process.kill()
    process.communicate()
    wait_for(lambda: purse.left == 100)
    lender.close()


def test_a_borrower_hears_at_once_when_the_lender_falls_quiet_and_when_it_does_not() -> None:
    purse = Purse(0)
    lender = Lender(purse, CPU)
    purse.activity.set(True)
    process = borrower(0)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "0 True\n"
    process.stdin.write("0.05\n")
    process.stdin.flush()
    assert process.stdout.readline() == "False\n"
    process.stdin.write("60\n")
    process.stdin.flush()
    purse.activity.set(False)
    began = time.monotonic()
    assert process.stdout.readline() == "True\n"
    assert time.monotonic() - began < lending.LOOK_SECONDS  # told, not found out
    process.communicate()
    lender.close()


def test_a_lender_that_comes_later_is_heard_too() -> None:
    first = Purse(50)
    lender = Lender(first, CPU)
    process = borrower(50)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "50 False\n"
    lender.close()
    again = Purse(50)
    again.activity.set(True)
    lender = Lender(again, CPU)
    wait_for(lambda: bool(again.loans))
    assert again.left == 50  # it found the memory taken already

    def is_heard() -> bool:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("0.05\n")
        process.stdin.flush()
        return process.stdout.readline() == "False\n"

    wait_for(is_heard)  # the loan is there a moment before the borrower knows
    process.communicate()
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
