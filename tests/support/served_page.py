"""Starting and ending the page as its own process, the way a service manager does, and using it as a person does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect

from training.runs.store import Run

START_SECONDS = 120
ANSWER_MS = 60_000
REPOSITORY = Path(__file__).resolve().parent.parent.parent
SLOW_PAGE = Path(__file__).with_name("slow_page.py")
OpenPage = Callable[..., Page]
WriteRun = Callable[..., Run]
TakeScreenshot = Callable[[Page, str], None]


@dataclass(frozen=True)
class Served:
    """A running page."""

    url: str
    output: Path
    process: subprocess.Popen[bytes]


def start_page(model: Path, output: Path, *options: str, port: int | None = None, slow: bool = False) -> Served:
    """Starts ``python -m app``, or one that is slow, on a free port and waits until its model is loaded."""
    port = port or find_free_port()
    entry = [str(SLOW_PAGE)] if slow else ["-m", "app"]
    command = [sys.executable, *entry, "--model", str(model), "--port", str(port), "--output", str(output)]
    command += ["--host", "127.0.0.1", "--device", "cpu", *options]
    log = output.parent / f"page-{port}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )
    served = Served(f"http://127.0.0.1:{port}", output, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{served.url}/healthz", timeout=5) as answer:
                if b'"ready"' in answer.read():
                    return served
        except urllib.error.HTTPError:
            break  # the model failed
        except OSError:
            pass
        time.sleep(0.2)
    process.kill()
    process.wait()
    raise AssertionError(log.read_text(encoding="utf-8"))


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop_page(served: Served) -> int:
    """Asks the page to end, as a service manager does, and returns its exit code."""
    served.process.send_signal(signal.SIGTERM)
    return served.process.wait(timeout=START_SECONDS)


def ask(page: Page, question: str) -> None:
    """Sends a message and waits until both panes have finished."""
    page.locator("#message textarea").fill(question)
    with new_answers(page):
        page.locator("#message textarea").press("Enter")


def choose(page: Page, menu: str, option: str) -> None:
    page.locator(f"{menu} input").click()
    page.get_by_role("option", name=option).click()
    expect(page.get_by_role("option")).to_have_count(0)  # it fades out


@contextmanager
def new_answers(page: Page, *panes: str) -> Iterator[None]:
    """Waits until the panes have finished answering what is asked inside; by default both."""
    facts = [page.locator(f"#{pane}-facts") for pane in panes or ("left", "right")]
    before = [fact.inner_text() for fact in facts]
    yield
    for fact, old in zip(facts, before, strict=True):
        expect(fact).not_to_have_text(old, use_inner_text=True, timeout=ANSWER_MS)
        expect(fact).to_contain_text("token", use_inner_text=True, timeout=ANSWER_MS)
    expect(page.locator("#send")).to_be_visible(timeout=ANSWER_MS)
