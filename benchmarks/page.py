"""The page in a browser: what a first visit loads, what an idle page asks for, and how evenly answers appear.

    ./launch.sh bench page --rounds 20

Starts a page with the demo model on this machine and opens it in headless Chromium. Prints JSON lines: seconds until
the panes can be used and KiB sent on a first visit, requests of an idle page in ten seconds, and milliseconds between
two changes of an answer while both panes hold a long conversation. The demo model's answers are short, so it is served
without its end-of-text token here: the last answer fills the context. A busy machine measures itself: run it on a quiet
one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.common import report
from benchmarks.serving import serve
from training.settings.samples import DEMO_MODEL

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
IDLE_SECONDS = 10
ANSWER_MS = 120_000
QUESTION = "你好，请介绍一下你自己，越长越好。"
# Notes when the newest answer of a pane has changed; what is drawn between two frames is one change.
WATCH = """
(pane) => {
  const times = (window.changes ??= {})[pane] = [];
  const chat = document.getElementById(`${pane}-chat`);
  const newest = () => [...chat.querySelectorAll("[data-testid=bot]")].at(-1)?.textContent ?? "";
  let last = newest();
  const look = () => {
    const now = newest();
    if (now !== last) times.push(performance.now());
    last = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""


@contextmanager
def served() -> Iterator[str]:
    """A page with the demo model, until it is left."""
    with tempfile.TemporaryDirectory() as place:
        model, output = Path(place, "demo-model"), Path(place, "output")
        _copy_without_end(DEMO_MODEL, model)
        output.mkdir()
        process, url = serve(output, model)
        try:
            yield url
        finally:
            process.terminate()
            process.wait()


def _copy_without_end(model: Path, copy: Path) -> None:
    shutil.copytree(model, copy)
    config = copy / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**settings, "eos_token_id": None}), encoding="utf-8")


def measure_visit(browser: Browser, url: str) -> dict[str, Any]:
    """A visit of a browser that has seen nothing before, and what its page asks for when nobody touches it."""
    page = browser.new_page()
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    sizes: list[float] = []
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    started = time.monotonic()
    page.goto(url)
    page.locator("#left-head .chip").wait_for()
    seconds = time.monotonic() - started
    page.wait_for_timeout(1000)
    loaded, requests = sum(sizes), len(sizes)
    page.wait_for_timeout(1000 * IDLE_SECONDS)
    idle = len(sizes) - requests
    page.close()
    return {"usable_seconds": seconds, "sent_kib": loaded / 1024, "requests": requests, "idle_requests_in_10_s": idle}


def measure_gaps(page: Page, rounds: int) -> dict[str, Any]:
    """Milliseconds between two changes of an answer in round ``rounds``, both panes together."""
    for number in range(rounds):
        if number == rounds - 1:
            for pane in ("left", "right"):
                page.evaluate(WATCH, pane)
        page.locator("#message textarea").fill(f"{QUESTION} {number}")
        page.locator("#message textarea").press("Enter")
        for pane in ("left", "right"):
            answers = page.locator(f"#{pane}-chat").get_by_test_id("bot")
            answers.nth(number).wait_for(timeout=ANSWER_MS)
        if number < rounds - 1:
            page.locator("#stop").click()
        page.locator("#send").wait_for(timeout=ANSWER_MS)
    changes: dict[str, list[float]] = page.evaluate("window.changes")
    gaps = sorted(after - before for times in changes.values() for before, after in itertools.pairwise(times))
    return {
        "messages_a_pane": 2 * rounds,
        "gaps": len(gaps),
        "median_ms": statistics.median(gaps),
        "p95_ms": gaps[int(0.95 * (len(gaps) - 1))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the conversation whose last answer is timed")
    parser.add_argument("--visits", type=int, default=3)
    arguments = parser.parse_args()
    installed = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=FLAGS)
        for _ in range(arguments.visits):
            report("page visit", **measure_visit(browser, url))
        page = browser.new_page()
        page.goto(url)
        page.locator("#left-head .chip").wait_for()
        report("page answers", **measure_gaps(page, arguments.rounds))
        browser.close()


if __name__ == "__main__":
    main()
