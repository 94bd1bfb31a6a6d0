"""Comparing as a person does it: conversations that stay, panes in step, differences, blind votes, rows to train on."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, Route, expect
from served_page import ANSWER_MS, OpenPage, Served, WriteRun, ask

QUESTIONS = ("你好", "写一个 Python 例子", "什么是勾股定理？", "Hello!", "类型#上衣*材质#牛仔布", "你是谁？")


def scrolled(page: Page, pane: str) -> float:
    return float(page.evaluate("pane => document.querySelector(`#${pane}-chat [role=log]`).scrollTop", pane))


def sources(page: Page) -> list[str | None]:
    marks = (page.locator(f"#{pane}-chat .answer-source").last for pane in ("left", "right"))
    return [mark.get_attribute("title") for mark in marks]


def test_conversations_are_put_away_taken_up_and_carried_in_files(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("en-US")
    ask(page, "你好")
    page.locator("#to-conversations").click()
    page.locator("#conversation-name").locator("input, textarea").fill("Greetings")
    page.locator("#conversation-name").locator("input, textarea").press("Enter")
    entries = page.locator("#conversation-list li")
    expect(entries.first).to_contain_text("Greetings")
    with page.expect_download() as download:
        page.locator("#save-md").click()
    file = tmp_path / "carried.md"
    download.value.save_as(file)
    page.locator("#new-conversation").click()
    expect(entries).to_have_count(2)
    expect(page.locator("#left-chat").get_by_test_id("bot")).to_have_count(0)
    page.reload()
    page.locator("#left-head .chip").wait_for()
    page.locator("#to-conversations").click()
    page.locator("#conversation-list [data-action=open]").click()
    expect(page.locator("#left-chat").get_by_test_id("user")).to_have_text("你好")
    page.locator("#conversation-list [data-action=delete]").click()
    page.locator("#forget-yes").click()
    expect(page.locator("#left-chat").get_by_test_id("user")).to_have_count(0)
    with page.expect_file_chooser() as chooser:
        page.locator("#read-conversation").click()
    chooser.value.set_files(file)
    expect(page.locator("#left-chat").get_by_test_id("user")).to_have_text("你好")
    page.keyboard.press("Escape")
    expect(page.locator("#conversations")).to_be_hidden()


def test_a_name_that_is_typed_while_the_drawer_opens_is_kept(open_page: OpenPage) -> None:
    """On a busy machine people type faster than the list of conversations comes."""
    page = open_page("en-US")
    ask(page, "你好")
    held: list[Route] = []
    page.route("**/run/predict*", lambda route: held.append(route))
    page.locator("#to-conversations").click()
    name = page.locator("#conversation-name").locator("input, textarea")
    name.fill("Greetings")
    page.wait_for_timeout(200)
    page.unroute("**/run/predict*")
    for route in held:
        route.continue_()
    entries = page.locator("#conversation-list li")
    expect(entries.first).to_contain_text("你好")
    name.press("Enter")
    expect(entries.first).to_contain_text("Greetings")


def test_panes_scroll_in_step_leave_a_reader_alone_and_go_to_a_new_question(
    open_page: OpenPage, write_run: WriteRun
) -> None:
    write_run("past")
    page = open_page("en-US")
    for question in QUESTIONS:
        ask(page, question)
    page.locator("#left-chat").hover()
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => document.querySelector('#left-chat [role=log]').scrollTop < 1000")
    page.wait_for_timeout(300)  # the wheel runs out
    tops = [page.locator(f"#{pane}-chat").get_by_test_id("user").nth(4).bounding_box() for pane in ("left", "right")]
    assert tops[0] is not None and tops[1] is not None and abs(tops[0]["y"] - tops[1]["y"]) < 40
    before = scrolled(page, "left")
    page.locator("#left-chat").get_by_test_id("bot").last.evaluate("bot => bot.append(document.createElement('p'))")
    page.wait_for_timeout(100)
    assert scrolled(page, "left") == before
    ask(page, "你好")
    expect(page.locator("#left-chat").get_by_test_id("user").last).to_be_in_viewport()
    page.locator("#to-looking").click()
    page.locator("#scroll-together input").uncheck()
    page.keyboard.press("Escape")
    right = scrolled(page, "right")
    page.locator("#left-chat").hover()
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(300)
    assert scrolled(page, "right") == right


def test_differences_are_marked_after_a_reload_too_and_copies_have_no_marks(
    open_page: OpenPage, write_run: WriteRun
) -> None:
    write_run("past")
    page = open_page("en-US")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "类型#上衣*材质#牛仔布*颜色#白色")
    said = page.locator("#right-chat").get_by_test_id("bot").inner_text()
    page.locator("#to-looking").click()
    page.locator("#show-differences input").check()
    expect(page.locator("#right-chat .differing")).to_be_visible()
    page.reload()
    expect(page.locator("#right-chat .differing")).to_be_visible()
    page.locator("#right-chat .message-buttons-left").get_by_role("button", name="Copy message").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "<" not in copied and "&#" not in copied
    assert "".join(copied.split()).replace("-", "") == "".join(said.split()).replace("-", "")


def test_a_blind_vote_shows_who_it_was_and_is_counted(open_page: OpenPage, write_run: WriteRun) -> None:
    write_run("past")
    page = open_page("en-US")
    page.locator("#to-looking").click()
    page.locator("#blind-vote input").check()
    page.keyboard.press("Escape")
    page.locator("#message textarea").fill("类型#上衣*材质#牛仔布")
    page.locator("#message textarea").press("Enter")
    vote = page.locator("#vote-left")
    expect(vote).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator(".answer-source, .pane-head:visible")).to_have_count(0)
    page.reload()
    expect(vote).to_be_visible()
    expect(page.locator(".answer-source")).to_have_count(0)
    vote.click()
    expect(vote).to_be_hidden()
    winner, loser = sources(page)
    assert {winner and winner.split()[0], loser and loser.split()[0]} == {"base", "past"}
    page.locator("#to-looking").click()
    won = page.locator("#votes tbody tr").first
    expect(won).to_contain_text("1 / 0 / 0")
    expect(won).to_contain_text("past" if winner and winner.startswith("past") else "Base model")


def test_a_liked_answer_is_a_row_that_train_offers(open_page: OpenPage, served: Served) -> None:
    page = open_page("en-US")
    ask(page, "你好")
    page.locator("#left-chat").get_by_role("button", name="Like").click()
    expect(page.locator("#left-chat .answer-source")).to_have_attribute("title", "base · demo-model · liked")
    page.locator("#right-chat .message-buttons-left").get_by_role("button", name="Edit").click()
    editor = page.locator("#right-chat textarea")
    expect(editor).not_to_have_value("")
    assert "<" not in editor.input_value()
    editor.fill("你好 #1")
    page.locator("#right-chat").get_by_role("button", name="Submit").click()
    expect(page.locator("#right-chat .answer-source")).to_have_attribute("title", "base · demo-model · edited · liked")
    expect(page.locator("#right-chat").get_by_test_id("bot")).to_contain_text("你好 #1")
    file = served.output / ".data" / "liked" / "liked-answers.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["response"] == "你好 #1" and rows[-1]["edited"]
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#data-source").get_by_text("Liked answers").click()
    expect(page.locator("#data-rows")).to_contain_text("你好 #1", timeout=20_000)
    file.unlink()


def test_samples_and_the_proof_are_asked_for_in_the_drawer(open_page: OpenPage) -> None:
    page = open_page("en-US")
    ask(page, "你好")
    page.locator("#to-looking").click()
    page.locator("#sample-count").get_by_text("2").click()
    page.locator("#sample-ask").click()
    expect(page.locator("#samples small").filter(has_text="tokens")).to_have_count(2, timeout=ANSWER_MS)
    page.locator("#prove-base").click()
    expect(page.locator("#proof")).to_contain_text("The base is untouched", timeout=ANSWER_MS)
