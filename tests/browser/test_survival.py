"""What a reload must not lose, and the end of the server neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from past_runs import write_past_run
from playwright.sync_api import Browser, Page, expect
from served_page import ANSWER_MS, OpenPage, Served, ask, find_free_port, new_answers, start_page

LONG = "你好，请详细介绍一下你自己，越长越好。"
TYPED = "下一个问题写到一半"
INTERRUPTED = "回答因页面刷新或重启而中断"


def kept(page: Page, what: str) -> str | None:
    """What the browser keeps under a name; it is encrypted, and another text whenever another one is kept."""
    found: str | None = page.evaluate("name => localStorage.getItem(name)", f"chatglm-{what}")
    return found


def await_kept(page: Page, what: str, before: str | None) -> None:
    page.wait_for_function(
        "([name, before]) => localStorage.getItem(name) !== before", arg=[f"chatglm-{what}", before], timeout=ANSWER_MS
    )


def test_a_reload_keeps_what_was_typed_until_it_is_sent(open_page: OpenPage) -> None:
    page = open_page()
    before = kept(page, "draft")
    page.locator("#message textarea").fill("写了一半的问")
    await_kept(page, "draft", before)
    page.reload()
    expect(page.locator("#message textarea")).to_have_value("写了一半的问")
    ask(page, LONG)
    page.reload()
    expect(page.locator("#message textarea")).to_have_value("")
    expect(page.locator("#left-chat")).to_contain_text(LONG)


class SlowServer:
    """A page whose answers take seconds; it can be killed and started again at the same address."""

    def __init__(self, model: Path, output: Path) -> None:
        self.model, self.output, self.port = model, output, find_free_port()
        self.served = self.start()

    def start(self) -> Served:
        self.served = start_page(self.model, self.output, "--slots", "2", port=self.port, slow=True)
        return self.served

    def kill(self) -> None:
        """As the operating system does when memory runs out."""
        self.served.process.kill()
        self.served.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, demo_model_dir: Path) -> Iterator[SlowServer]:
    output = tmp_path_factory.mktemp("slow") / "output"
    write_past_run(output, demo_model_dir, "adverts", (20,))
    server = SlowServer(demo_model_dir, output)
    yield server
    server.kill()


@pytest.fixture
def visit(browser: Browser, server: SlowServer) -> Iterator[Page]:
    """A browser whose complaints nobody counts: its server dies."""
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.set_default_timeout(ANSWER_MS)
    page.goto(server.served.url)
    page.locator("#left-head .chip").wait_for()
    yield page
    context.close()


def ask_and_type(page: Page) -> str:
    """Asks, and types the next question when a part of the answer is there and kept; returns that part."""
    page.locator("#message textarea").fill(LONG)
    page.locator("#message textarea").press("Enter")
    expect(page.locator("#message textarea")).to_have_value("")
    before = kept(page, "draft")
    page.locator("#message textarea").fill(TYPED)
    await_kept(page, "draft", before)
    said = page.locator("#left-chat").get_by_test_id("bot").last
    expect(said).to_contain_text("我", timeout=ANSWER_MS)  # the demo model introduces itself
    part = said.inner_text().strip()
    for _ in range(2):  # what was being kept when that was seen, and what follows it
        await_kept(page, "heard", kept(page, "heard"))
    expect(page.locator("#stop")).to_be_visible()
    return part


def require_all_there(page: Page, part: str) -> None:
    """The question, the partial answer, the text that was typed, and a way to go on."""
    expect(page.locator("#left-chat")).to_contain_text(LONG, timeout=ANSWER_MS)
    expect(page.locator("#left-chat").get_by_test_id("bot").last).to_contain_text(part)
    expect(page.locator("#left-facts")).to_contain_text(INTERRUPTED)
    expect(page.locator("#message textarea")).to_have_value(TYPED)
    with new_answers(page, "left"):
        page.locator("#left-chat").get_by_label("重试").last.click()
    expect(page.locator("#message textarea")).to_have_value(TYPED)


def test_a_reload_in_mid_answer_keeps_the_partial_answer_and_what_was_typed(visit: Page) -> None:
    part = ask_and_type(visit)
    visit.reload()
    require_all_there(visit, part)


def test_a_server_that_is_killed_in_mid_answer_loses_neither_the_partial_answer_nor_what_was_typed(
    visit: Page, server: SlowServer
) -> None:
    part = ask_and_type(visit)
    server.kill()
    server.start()
    visit.goto(server.served.url)
    require_all_there(visit, part)
