"""What a person does on the Evaluate tab: begin, leave and come back, stop, go on, look at rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from served_page import OpenPage, TakeScreenshot, WriteRun

EVALUATING_MS = 120_000


@pytest.fixture
def checkpoints(write_run: WriteRun) -> list[Path]:
    return [info.path for info in write_run("evaluated").checkpoints()]


def show_evaluate(page: Page) -> None:
    page.get_by_role("tab", name="评估", exact=True).click()


def test_an_evaluation_outlives_the_visit_and_its_rows_open_in_compare(
    open_page: OpenPage, checkpoints: list[Path], take_screenshot: TakeScreenshot
) -> None:
    page = open_page()
    show_evaluate(page)
    expect(page.locator("#evaluated-checkpoints")).to_contain_text("evaluated / checkpoint-")
    page.locator("#evaluated-limit input").fill("100")
    page.locator("#start-evaluation").click()
    page.locator("#stop-evaluation").click(timeout=EVALUATING_MS)
    expect(page.locator("#evaluation-progress")).to_contain_text("已停止", timeout=EVALUATING_MS)
    page.reload()
    show_evaluate(page)
    expect(page.locator("#continue-evaluation")).to_be_visible()

    page.locator("#evaluated-limit input").fill("4")
    page.locator("#asked-general").get_by_text("不询问").click()
    page.locator("#start-evaluation").click()
    expect(page.locator("table.scores")).to_contain_text("基座模型", timeout=EVALUATING_MS)
    rows = page.locator(".compared-row")
    expect(rows).to_have_count(4)
    page.locator("#search-rows input").fill("没有这样的文字")
    expect(rows).to_have_count(0)
    page.locator("#search-rows input").fill("")
    expect(rows).to_have_count(4)
    rows.first.locator("summary").click()
    take_screenshot(page, "evaluate")
    with page.expect_download() as started:
        page.get_by_role("link", name="rows.csv").click()
    assert started.value.path().read_text(encoding="utf-8-sig").startswith("row,input,reference")
    asked = rows.first.locator("dd").first.inner_text()
    rows.first.get_by_role("button", name="在对比中打开").click()
    expect(page.locator("#message textarea")).to_have_value(asked)
    expect(page.locator("#right-model input")).to_have_value(re.compile("evaluated / checkpoint-40"))
