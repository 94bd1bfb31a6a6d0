"""What a visitor from elsewhere sees, and how the key opens the page. A forwarded address is another machine here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from served_page import Served, WriteRun

ELSEWHERE = {"X-Forwarded-For": "192.0.2.77"}
Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens an address as somebody at another machine."""
    contexts: list[BrowserContext] = []

    def open_one(url: str, language: str = "en-US") -> Page:
        contexts.append(browser.new_context(locale=language, extra_http_headers=ELSEWHERE))
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()


def test_a_stranger_chats_and_watches_and_is_told_what_the_rest_takes(
    visit: Visit, served: Served, write_run: WriteRun
) -> None:
    write_run("watched", (20,))
    page = visit(served.url, "zh-CN")
    page.locator("#message textarea").fill("你好")
    page.locator("#send").click()
    expect(page.locator("#right-facts")).to_contain_text("token", timeout=60_000)
    page.get_by_role("tab", name="训练", exact=True).click()
    expect(page.locator("#train-key")).to_contain_text("操作密钥")
    expect(page.locator("#run-progress")).to_contain_text("已完成")
    for control in ("#start", "#run-name textarea, #run-name input", "#data-source input >> nth=1"):
        expect(page.locator(control)).to_be_disabled()
    page.get_by_role("tab", name="检查点", exact=True).click()
    for action in ("下载", "删除"):
        expect(page.get_by_role("button", name=f"{action}: watched / checkpoint-20")).to_be_disabled()
    page.get_by_role("button", name="左栏: watched / checkpoint-20").click()
    expect(page.locator("#left-head .chip")).to_contain_text("watched")
    page.locator("#checkpoints-key input").fill("wrong")
    page.locator("#checkpoints-key button").click()
    expect(page.locator("#checkpoints-key [role=alert]")).to_contain_text("操作密钥不正确")


def test_the_machines_own_browser_is_asked_for_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page("en-US")
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#train-key .notice")).to_have_count(0)
    expect(page.locator("#sign-out")).to_have_count(0)


def test_the_printed_link_opens_the_page_and_signing_out_closes_it(
    visit: Visit, served: Served, printed_key: str
) -> None:
    page = visit(f"{served.url}/#key={printed_key}")
    page.locator("#sign-out").wait_for()
    assert printed_key not in page.url
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#sign-out").click()
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page.locator("#start")).to_be_disabled()


@pytest.fixture
def printed_key(served: Served) -> str:
    """The key as whoever started the page reads it."""
    log = served.output.parent / f"page-{served.url.rpartition(':')[2]}.log"
    return log.read_text(encoding="utf-8").partition("#key=")[2].split()[0]
