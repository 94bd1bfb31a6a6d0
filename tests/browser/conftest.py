"""The real page, started as a person starts it, and a real browser to open it with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from past_runs import write_past_run
from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, sync_playwright
from served_page import OpenPage, Served, WriteRun, start_page, stop_page

from training.runs.store import Run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@dataclass
class Complaints:
    """What must not happen while a page is open."""

    seen: list[str] = field(default_factory=list)

    def watch(self, page: Page, origin: str) -> None:
        page.on("pageerror", lambda error: self.seen.append(f"page error: {error}"))
        page.on("console", lambda message: self._note_console(message.type, message.text))
        page.on("request", lambda request: self._note_request(request.url, origin))

    def _note_console(self, kind: str, text: str) -> None:
        if kind == "error":
            self.seen.append(f"console: {text}")

    def _note_request(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            self.seen.append(f"external request: {url}")


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as instance:
        yield instance


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's chromium where there is one, else Playwright's own."""
    installed = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    try:
        browser = playwright.chromium.launch(executable_path=installed, args=BROWSER_FLAGS)
    except Error as error:
        pytest.skip(
            f"no browser: install Debian's chromium or run 'playwright install chromium' ({error.message[:80]})"
        )
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def served(browser: Browser, demo_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One page for the whole suite; the browser comes first, so that nothing is started without one."""
    served = start_page(demo_model_dir, tmp_path_factory.mktemp("page") / "output")
    yield served
    assert stop_page(served) == 0


@pytest.fixture
def write_run(served: Served, demo_model_dir: Path) -> Iterator[WriteRun]:
    """Writes a run that is over, by name and steps of its checkpoints; it is gone again after the test."""
    written: list[Run] = []

    def write(name: str, steps: tuple[int, ...] = (20, 40)) -> Run:
        written.append(write_past_run(served.output, demo_model_dir, name, steps))
        return written[-1]

    yield write
    for run in written:
        shutil.rmtree(run.path)


@pytest.fixture
def open_page(browser: Browser, served: Served) -> Iterator[OpenPage]:
    """Opens the page in a fresh browser profile; afterwards nothing may have gone wrong in any of them."""
    complaints = Complaints()
    contexts: list[BrowserContext] = []

    def open_one(language: str = "zh-CN", dark: bool = False, width: int = 1280, height: int = 800) -> Page:
        context = browser.new_context(
            locale=language, color_scheme="dark" if dark else "light", viewport={"width": width, "height": height}
        )
        contexts.append(context)
        page = context.new_page()
        complaints.watch(page, served.url)
        page.goto(served.url)
        page.locator("#left-head .chip").wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints.seen == []


@pytest.fixture(scope="session")
def take_screenshot(repository: Path) -> Callable[[Page, str], None]:
    """Writes ``assets/screenshots/NAME.png`` when CHATGLM2_SCREENSHOTS is set; the README shows them."""

    def take(page: Page, name: str) -> None:
        if os.environ.get("CHATGLM2_SCREENSHOTS"):
            page.mouse.move(0, 0)
            page.wait_for_timeout(400)  # colours fade back
            page.screenshot(path=repository / "assets" / "screenshots" / f"{name}.png")

    return take
