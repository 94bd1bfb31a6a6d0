"""The page by keyboard, by ear and by thumb, and how much it asks for when it is left alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from served_page import OpenPage, ask

LEAST_TARGET = 40  # pixels that a thumb finds


@pytest.fixture
def phone(open_page: OpenPage) -> Page:
    return open_page(width=390, height=844)


def test_tabs_are_walked_by_arrows_and_logs_have_names_of_their_own(open_page: OpenPage) -> None:
    page = open_page("en-US")
    for side in ("left", "right"):
        expect(page.get_by_role("log", name=f"Answers of the {side} pane")).to_have_count(1)
    tab = page.get_by_role("tab", name="Compare", exact=True)
    expect(tab).to_have_attribute("tabindex", "0")
    tab.focus()
    page.keyboard.press("ArrowRight")
    following = page.get_by_role("tab", name="Train", exact=True)
    expect(following).to_be_focused()
    expect(following).to_have_attribute("aria-selected", "true")
    expect(following).to_have_attribute("tabindex", "0")
    expect(tab).to_have_attribute("tabindex", "-1")
    page.keyboard.press("ArrowLeft")
    expect(tab).to_be_focused()


def test_a_page_that_is_left_alone_asks_seldom_and_a_hidden_one_not_at_all(open_page: OpenPage) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(7000)
    assert len(asked) <= 4
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(4000)
    assert asked == []


def test_a_phone_switches_panes_by_buttons_and_both_stand_at_the_same_round(phone: Page) -> None:
    for question in ("你好", "写一个 Python 例子", "什么是勾股定理？"):
        ask(phone, question)
    logs = {side: phone.locator(f"#{side}-chat [role=log]") for side in ("left", "right")}
    logs["left"].evaluate("log => log.scrollTo(0, 0)")
    phone.locator("#pane-switch").get_by_role("button", name="右栏").click()
    expect(phone.locator(".pane").nth(1)).to_be_in_viewport(ratio=0.95)
    expect(phone.locator("#pane-switch").get_by_role("button", name="右栏")).to_have_attribute("aria-pressed", "true")
    assert logs["right"].evaluate("log => log.scrollTop") < 2


def test_a_thumb_finds_every_icon(phone: Page) -> None:
    ask(phone, "你好")
    icons = phone.locator(
        "#left-chat .message-buttons button, #pane-switch button, #header button, #tools > button, #send"
    )
    small = [
        box for icon in icons.all() if (box := icon.bounding_box()) and min(box["width"], box["height"]) < LEAST_TARGET
    ]
    assert icons.count() > 6 and small == []


def test_icons_speak_the_pages_language(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "你好")
    expect(page.locator("#left-chat .message-buttons button").first).to_have_attribute("aria-label", "复制消息")
    names = page.locator("#left-chat button").evaluate_all(
        "buttons => buttons.map((button) => button.getAttribute('aria-label') || button.title)"
    )
    assert [name for name in names if name.isascii() and name] == []
