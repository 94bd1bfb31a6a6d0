"""What once went wrong on the page, each with the way to it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from served_page import OpenPage, WriteRun, ask, choose

WRITTEN = "类型#上衣 a<b & *c* `x&lt;y` &#35; ~1"
HEAR_COPIES = """
addEventListener("copy", (event) => { window.copied = event.clipboardData.getData("text/plain"); });
"""


def test_a_panes_menu_opens_at_its_field_and_shows_every_entry(open_page: OpenPage, write_run: WriteRun) -> None:
    write_run("many", tuple(range(10, 470, 10)))
    page = open_page()
    page.locator("#left-model input").click()
    options = page.get_by_role("option")
    expect(options.filter(has_text="many / ")).to_have_count(46)
    page.wait_for_timeout(300)  # it slides in
    field, menu = page.locator("#left-model").bounding_box(), page.locator("#left-model ul").bounding_box()
    assert field is not None and menu is not None
    assert abs(menu["y"] - field["y"] - field["height"]) < 12
    options.last.scroll_into_view_if_needed()
    assert options.last.evaluate(
        "option => { const at = option.getBoundingClientRect();"
        " return option.contains(document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2)); }"
    )
    page.get_by_role("option", name="many / checkpoint-10", exact=True).click()
    expect(page.locator("#left-head .chip")).to_contain_text("many · 第 10 步")


def test_a_run_named_like_one_of_our_words_keeps_its_name(open_page: OpenPage, write_run: WriteRun) -> None:
    write_run("best", (7,))
    page = open_page()
    page.get_by_role("tab", name="训练", exact=True).click()
    expect(page.locator("#run input")).to_have_value("best")


def test_a_choice_named_like_one_of_our_words_reaches_the_server_as_it_is(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("tab", name="训练", exact=True).click()
    page.get_by_text("更多设置").click()
    choose(page, "#setting-metric_for_best_model", "loss")
    expect(page.locator("#setting-metric_for_best_model input")).to_have_value("loss")
    page.locator("#setting-mix_file input").fill("nowhere.json")
    page.locator("#setting-mix_file input").press("Tab")
    page.locator("#start").click()
    expect(page.get_by_test_id("toast-body").last).to_contain_text("nowhere.json")


def copy_message(page: Page, who: str) -> None:
    page.locator("#left-chat .message-wrap > *").filter(has=page.get_by_test_id(who)).first.hover()
    row = page.locator(f"#left-chat .message-buttons-{'right' if who == 'user' else 'left'}").first
    row.get_by_role("button", name="Copy message").click()


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_a_copied_message_is_what_was_written(open_page: OpenPage, has_clipboard: bool) -> None:
    """Served by a LAN address over plain HTTP, a page has no ``navigator.clipboard``."""
    page = open_page("en-US")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not has_clipboard:
        page.evaluate("delete Navigator.prototype.clipboard")
        page.evaluate(HEAR_COPIES)
    ask(page, WRITTEN)
    copy_message(page, "user")
    copied = page.evaluate("navigator.clipboard.readText()" if has_clipboard else "window.copied")
    assert copied == WRITTEN


def test_a_setting_is_found_by_a_word_of_its_explanation_or_topic(open_page: OpenPage) -> None:
    page = open_page("en-US")
    page.get_by_role("tab", name="Train", exact=True).click()
    page.get_by_text("More settings").click()
    page.locator("#find-setting textarea, #find-setting input").fill("memory")
    expect(page.locator("#setting-warmup_steps")).to_be_hidden()
    expect(page.locator("#setting-dtype")).to_be_visible()
    page.locator("#find-setting textarea, #find-setting input").fill("rises from 0")
    expect(page.locator("#setting-warmup_steps")).to_be_visible()
    expect(page.locator("#setting-dtype")).to_be_hidden()
    page.locator("#find-setting textarea, #find-setting input").fill("")
    expect(page.locator("#setting-dtype")).to_be_visible()


def test_changed_settings_are_marked_and_set_back_one_by_one_or_together(open_page: OpenPage) -> None:
    page = open_page("en-US")
    page.get_by_role("tab", name="Train", exact=True).click()
    changed, steps = page.locator("#changed-settings"), page.locator("#setting-max_steps input")
    length = page.locator("#setting-pre_seq_len input")
    expect(changed).to_be_hidden()
    offered = steps.input_value(), length.input_value()
    steps.fill("7")
    length.fill("9")
    expect(changed.get_by_role("button", name="Set Prefix length back")).to_be_visible()
    assert page.locator("#setting-max_steps").evaluate("block => getComputedStyle(block).boxShadow") != "none"
    changed.get_by_role("button", name="Set Prefix length back").click()
    expect(length).to_have_value(offered[1])
    expect(steps).to_have_value("7")
    length.fill("9")
    changed.get_by_role("button", name="Set all back").click()
    expect(steps).to_have_value(offered[0])
    expect(changed).to_be_hidden()
    choose(page, "#setting-preset", "adgen")
    expect(changed).to_contain_text("Changed")
