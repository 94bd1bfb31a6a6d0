"""What a person does on the page, in the order in which they do it: chat, train, compare, keep, delete."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file
from served_page import OpenPage, Served, TakeScreenshot, ask, choose, new_answers, start_page, stop_page

from chatglm2.model.prefix_files import PREFIX_FILE

ATTRIBUTES = "类型#上衣*材质#牛仔布*颜色#白色*风格#简约*图案#刺绣"
MORE_ATTRIBUTES = "类型#裙*版型#宽松*风格#淑女*图案#字母*裙长#中长裙"
TRAINING_MS = 150_000


def ask_example(page: Page, text: str) -> None:
    """Presses one of the examples, which are answered without the earlier rounds."""
    with new_answers(page):
        page.locator("#examples").get_by_role("button", name=text).click()


def last_answer(page: Page, pane: str) -> str:
    return page.locator(f"#{pane}-chat").get_by_test_id("bot").last.inner_text().strip()


def show_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def start_training(page: Page, **settings: str) -> None:
    show_tab(page, "训练")
    for name, value in settings.items():
        page.locator(f"#setting-{name} input").fill(value)
    page.locator("#start").click()
    expect(page.locator("#run-progress .badge")).to_have_class(re.compile("starting|running"), timeout=20_000)


def no_sideways_scrolling(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_first_visitor_sees_two_base_panes_and_where_to_go(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#left-head")).to_contain_text("原模型")
    expect(page.locator("#nothing-trained")).to_contain_text("还没有训练过")
    expect(page.locator("#status")).to_contain_text("CPU")
    show_tab(page, "检查点")
    expect(page.locator("#checkpoint-table")).to_contain_text("还没有检查点")
    show_tab(page, "对比")
    page.locator("#to-training").click()
    expect(page.locator("#start")).to_be_visible()


def test_both_panes_answer_one_question(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, ATTRIBUTES)
    assert last_answer(page, "left") and last_answer(page, "right")
    assert page.locator("#left-chat").get_by_test_id("user").inner_text().strip() == ATTRIBUTES
    # The same model and the same seed in both panes.
    assert last_answer(page, "left") == last_answer(page, "right")


def test_stop_undo_edit_retry_and_clear(open_page: OpenPage) -> None:
    page = open_page("en-US")
    ask(page, "你好")
    page.locator("#left-chat .message-buttons-right").get_by_role("button", name="Edit").click()
    page.locator("#left-chat textarea").fill("2*3*4 是多少？")
    with new_answers(page):
        page.locator("#left-chat").get_by_role("button", name="Submit").click()
    expect(page.locator("#right-chat").get_by_test_id("user")).to_have_text("2*3*4 是多少？")
    page.locator("#left-chat .message-buttons-right").get_by_role("button", name="Edit").click()
    expect(page.locator("#left-chat textarea")).to_have_value("2*3*4 是多少？")
    page.locator("#left-chat").get_by_role("button", name="Cancel").click()
    with new_answers(page, "right"):
        page.locator("#right-chat").get_by_role("button", name="Retry").click()
    expect(page.locator("#right-chat").get_by_test_id("bot")).to_have_count(1)
    page.locator("#undo").click()
    expect(page.locator("#message textarea")).to_have_value("2*3*4 是多少？")
    expect(page.locator("#left-chat").get_by_test_id("user")).to_have_count(0)
    with new_answers(page):
        page.locator("#message textarea").press("Enter")
    page.locator("#clear").click()
    expect(page.locator("#clear-question")).to_be_in_viewport()
    page.locator("#clear-no").click()
    expect(page.locator("#clear-question")).to_be_hidden()
    expect(page.locator("#right-chat").get_by_test_id("bot")).not_to_have_count(0)
    page.locator("#clear").click()
    page.locator("#clear-yes").click()
    expect(page.locator("#right-chat").get_by_test_id("bot")).to_have_count(0)
    expect(page.locator("#message textarea")).to_have_value("")


def test_a_conversation_survives_a_refresh_and_stays_in_its_browser(open_page: OpenPage) -> None:
    page, other = open_page(), open_page()
    ask(page, "你好")
    said = last_answer(page, "left")
    page.reload()
    expect(page.locator("#left-chat").get_by_test_id("bot")).to_have_text(said)
    expect(other.locator("#left-chat").get_by_test_id("bot")).to_have_count(0)


def test_training_survives_a_refresh_and_is_seen_by_others(
    open_page: OpenPage, served: Served, take_screenshot: TakeScreenshot
) -> None:
    page = open_page()
    show_tab(page, "训练")
    page.get_by_text("看看数据").click()
    expect(page.locator("#data-report")).to_contain_text("content", timeout=20_000)
    page.get_by_text("看看数据").click()
    start_training(page, max_steps="40")
    expect(page.locator("#loss-chart polyline")).to_be_visible(timeout=TRAINING_MS)
    page.reload()
    show_tab(page, "训练")
    expect(page.locator("#loss-chart polyline")).to_be_visible(timeout=5_000)
    expect(page.get_by_role("progressbar", name="训练进度")).to_be_visible()
    other = open_page("en-US")
    show_tab(other, "Train")
    expect(other.locator("#loss-chart polyline")).to_be_visible(timeout=5_000)
    expect(other.locator("#status")).to_contain_text("step")
    expect(page.locator("#compare-now")).to_be_visible(timeout=TRAINING_MS)
    for viewer, name in ((page, "train-zh"), (other, "train-en")):
        viewer.locator("#log-box > button").click()  # the log names this machine's directories
        take_screenshot(viewer, name)
    expect(page.locator("#run-progress .badge")).to_have_text("已完成", timeout=TRAINING_MS)
    expect(page.locator("#checkpoint-ready-text")).to_contain_text("checkpoint-40")


@pytest.fixture
def checkpoint(served: Served, open_page: OpenPage) -> Path:
    """The newest checkpoint of the suite's run; trains one where the suite was not run from its start."""
    if not list(served.output.glob("*/checkpoint-*")):
        page = open_page()
        start_training(page)
        expect(page.locator("#run-progress .badge")).to_have_text("已完成", timeout=TRAINING_MS)
    return max(served.output.glob("*/checkpoint-*"), key=lambda path: path.stat().st_mtime)


def test_a_new_checkpoint_answers_in_the_right_pane(
    open_page: OpenPage, checkpoint: Path, take_screenshot: TakeScreenshot
) -> None:
    page = open_page()
    choose(page, "#right-model", "原模型")
    expect(page.locator("#right-head .chip")).to_have_class(re.compile("base"))
    show_tab(page, "训练")
    page.locator("#compare-now").click()
    chip = page.locator("#right-head .chip.tuned")
    expect(chip).to_be_visible()
    expect(chip).to_contain_text(checkpoint.parent.name)
    assert re.search(r"第 \d+ 步 · 前缀 \d+ · [0-9a-f]{8}", chip.inner_text())
    expect(page.locator("#right-head")).to_contain_text("已生效")
    ask(page, ATTRIBUTES)
    assert last_answer(page, "left") != last_answer(page, "right")
    ask_example(page, MORE_ATTRIBUTES)
    take_screenshot(page, "compare-zh")


def test_the_page_in_english_and_dark(open_page: OpenPage, checkpoint: Path, take_screenshot: TakeScreenshot) -> None:
    page = open_page("en-US", dark=True)
    expect(page.locator("#right-head .chip.tuned")).to_contain_text("prefix")
    ask(page, ATTRIBUTES)
    ask_example(page, MORE_ATTRIBUTES)
    assert not re.search(r"[\u4e00-\u9fff]", page.locator("#left-facts").inner_text())
    take_screenshot(page, "compare-en")
    show_tab(page, "Checkpoints")
    expect(page.get_by_role("columnheader", name="Loss")).to_be_visible()
    take_screenshot(page, "checkpoints-en")


def test_switching_the_language_keeps_the_conversation_and_is_remembered(open_page: OpenPage) -> None:
    page = open_page("en-US")
    ask(page, "你好")
    page.locator("#language").click()
    expect(page.get_by_role("tab", name="对比", exact=True)).to_be_visible()
    expect(page.locator("#left-chat").get_by_test_id("bot")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("设备")
    page.reload()
    expect(page.get_by_role("tab", name="对比", exact=True)).to_be_visible()


def test_switching_to_dark_is_remembered(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#theme").click()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("dark"))


def test_nothing_sticks_out_on_a_phone(open_page: OpenPage, checkpoint: Path, take_screenshot: TakeScreenshot) -> None:
    page = open_page(width=390, height=844)
    ask(page, ATTRIBUTES)
    assert no_sideways_scrolling(page)
    take_screenshot(page, "phone-zh")
    for name in ("训练", "检查点"):
        show_tab(page, name)
        page.wait_for_timeout(1200)
        assert no_sideways_scrolling(page)


def test_an_exported_conversation_stands_alone(open_page: OpenPage, browser: Browser, tmp_path: Path) -> None:
    page = open_page()
    ask(page, ATTRIBUTES)
    ask(page, "什么是勾股定理？")
    with page.expect_download() as download:
        page.locator("#export").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    text = file.read_text(encoding="utf-8")
    assert page.locator("#left-chat").get_by_test_id("bot").first.inner_text().strip() in text
    assert "<msup>" in text and "<script" not in text
    offline = browser.new_context(offline=True, java_script_enabled=False).new_page()
    offline.goto(file.as_uri())
    expect(offline.locator("article")).to_have_count(4)
    offline.context.close()


def test_own_data_is_looked_at_and_mistakes_are_named(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    show_tab(page, "训练")
    page.locator("#data-source").get_by_text("我的文件").click()
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"content": "a", "summaty": "b"}) + "\n", encoding="utf-8")
    page.locator("#data-file input[type=file]").set_input_files(bad)
    expect(page.locator("#data-findings .failed")).to_contain_text("summaty", timeout=10_000)
    choose(page, "#data-prompt-column", "content")
    choose(page, "#data-response-column", "summaty")
    expect(page.locator("#data-report")).to_contain_text("共 1 条", timeout=10_000)


def test_broken_rows_are_shown_with_the_way_around_them(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("en-US")
    show_tab(page, "Train")
    page.locator("#data-source").get_by_text("My own file").click()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"content": "a", "summary": "b"}) + "\n{\n", encoding="utf-8")
    page.locator("#data-file input[type=file]").set_input_files(rows)
    broken = page.locator("#data-findings")
    expect(broken).to_contain_text("1 row cannot be read", timeout=10_000)
    expect(broken).to_contain_text("rows.jsonl, line 2, column 2")
    expect(page.locator("#data-rows li")).to_have_count(1)
    page.locator("#start").click()
    expect(page.get_by_test_id("toast-body").last).to_contain_text("“Skip broken rows”")


def test_a_preset_fills_the_form_and_says_why(open_page: OpenPage) -> None:
    page = open_page()
    show_tab(page, "训练")
    expect(page.locator("#preset-reason")).to_be_hidden()
    choose(page, "#setting-preset", "adgen")
    expect(page.locator("#preset-reason")).to_contain_text("原版 train.sh")
    expect(page.locator("#setting-max_steps input")).to_have_value("3000")
    page.locator("#setting-learning_rate input").fill("0.0123")
    choose(page, "#setting-preset", "—")
    expect(page.locator("#setting-max_steps input")).to_have_value("100")
    expect(page.locator("#setting-learning_rate input")).to_have_value("0.0123")
    expect(page.locator("#preset-reason")).to_be_hidden()


def test_what_is_forgotten_is_shown_beside_the_loss(open_page: OpenPage) -> None:
    page = open_page()
    show_tab(page, "训练")
    page.locator("#setting-max_steps input").fill("2")
    page.get_by_text("更多设置").click()
    choose(page, "#setting-retention_check", "on")
    page.locator("#setting-mix_file input").fill("nowhere.json")
    page.locator("#setting-mix_file input").press("Tab")
    page.locator("#start").click()
    expect(page.get_by_test_id("toast-body").last).to_contain_text("nowhere.json")
    choose(page, "#setting-mix_file", "general.json")
    page.locator("#start").click()
    expect(page.locator("#run-progress .badge")).not_to_have_text("已完成")  # the run before
    expect(page.locator("#run-progress .badge")).to_have_text("已完成", timeout=TRAINING_MS)
    expect(page.locator("#retention figcaption")).to_contain_text("通用回答保留")
    expect(page.locator("#retention polyline")).to_be_visible()
    expect(page.locator("#run-log")).to_contain_text("2000 rows + 857 general rows")


def test_a_download_that_fails_says_why(browser: Browser, served: Served, checkpoint: Path) -> None:
    """In a browser whose complaints nobody counts: it notes the failed request on its console."""
    broken = checkpoint.with_name("checkpoint-987")
    broken.mkdir()
    (broken / PREFIX_FILE).write_bytes((checkpoint / PREFIX_FILE).read_bytes()[:100])
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(served.url)
    show_tab(page, "检查点")
    page.locator("#checkpoint-table tr", has_text="987").get_by_role("link", name="原版格式").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("损坏")
    expect(page.get_by_role("tab", name="检查点", exact=True)).to_be_visible()
    context.close()
    shutil.rmtree(broken)


def test_a_checkpoint_is_deleted_only_after_a_question(open_page: OpenPage, checkpoint: Path) -> None:
    page = open_page()
    show_tab(page, "检查点")
    row = page.locator("#checkpoint-table tr", has_text=checkpoint.parent.name).first
    row.get_by_role("button", name=re.compile("删除")).click()
    expect(page.locator("#delete-question")).to_contain_text("确定永久删除")
    page.locator("#delete-no").click()
    expect(page.locator("#delete-question")).to_be_hidden()
    assert checkpoint.exists()
    with page.expect_download() as download:
        row.get_by_text("下载", exact=True).click()
    assert download.value.suggested_filename.endswith(".zip")
    with page.expect_download() as download:
        row.get_by_role("link", name="原版格式").click()
    assert download.value.suggested_filename == "pytorch_model.bin"
    tensors = torch.load(download.value.path(), weights_only=True)
    expected = load_file(checkpoint / PREFIX_FILE)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    row.get_by_role("button", name=re.compile("删除")).click()
    page.locator("#delete-yes").click()
    expect(page.locator(f'button[data-key="{checkpoint}"]')).to_have_count(0)
    assert not checkpoint.exists()
    show_tab(page, "对比")
    expect(page.locator("#right-head")).not_to_contain_text(checkpoint.name.replace("checkpoint-", "第 ") + " 步")


def test_training_outlives_the_server_and_is_shown_again(
    browser: Browser, demo_model_dir: Path, tmp_path: Path
) -> None:
    first = start_page(demo_model_dir, tmp_path / "output")
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(first.url)
    start_training(page)
    expect(page.locator("#loss-chart polyline")).to_be_visible(timeout=TRAINING_MS)
    page.close()
    assert stop_page(first) == 0
    second = start_page(demo_model_dir, tmp_path / "output")
    page = context.new_page()
    page.goto(second.url)
    show_tab(page, "训练")
    expect(page.locator("#run-progress .badge")).to_have_text("训练中")
    page.locator("#stop-run").click()
    expect(page.locator("#run-progress .badge")).to_have_text("已停止", timeout=TRAINING_MS)
    expect(page.locator("#checkpoint-ready-text")).to_contain_text("checkpoint-")
    page.locator("#resume-run").click()
    expect(page.locator("#run-progress .badge")).to_have_text("训练中", timeout=TRAINING_MS)
    expect(page.locator("#run-progress .badge")).to_have_text("已完成", timeout=TRAINING_MS)
    context.close()
    assert stop_page(second) == 0


def test_what_learns_is_a_choice_and_an_emptied_prefix_length_is_refused(open_page: OpenPage) -> None:
    page = open_page("en-US")
    show_tab(page, "Train")
    length, rate = page.locator("#setting-pre_seq_len input"), page.locator("#setting-learning_rate input")
    expect(length).to_have_value("16")
    page.get_by_label("All weights").check()
    expect(length).to_be_hidden()
    expect(rate).to_have_value("0.00005")
    page.get_by_label("A prefix").check()
    expect(length).to_have_value("16")
    expect(rate).to_have_value("0.05")
    length.fill("")
    page.locator("#start").click()
    expect(page.get_by_test_id("toast-text").get_by_text("Prefix length is empty")).to_be_visible(timeout=20_000)
