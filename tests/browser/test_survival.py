"""What a reload must not lose."""

from __future__ import annotations

from playwright.sync_api import expect
from served_page import OpenPage, ask

LONG = "你好，请详细介绍一下你自己，越长越好。"


def test_a_reload_keeps_what_was_typed_until_it_is_sent(open_page: OpenPage) -> None:
    page = open_page()
    before = page.evaluate("localStorage.getItem('chatglm-draft')")
    page.locator("#message textarea").fill("写了一半的问")
    page.wait_for_function("before => localStorage.getItem('chatglm-draft') !== before", arg=before)
    page.reload()
    expect(page.locator("#message textarea")).to_have_value("写了一半的问")
    ask(page, LONG)
    page.reload()
    expect(page.locator("#message textarea")).to_have_value("")
    expect(page.locator("#left-chat")).to_contain_text(LONG)
