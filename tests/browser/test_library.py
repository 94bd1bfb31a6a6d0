"""The library of prefixes, clicked: a card is written, found, seen in Compare, and comes back in a zip."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import expect
from served_page import OpenPage, Served, WriteRun, choose

from training.library.archive import pack


def test_a_card_is_written_found_and_shown_in_compare_and_a_zip_brings_it_back(
    open_page: OpenPage, served: Served, write_run: WriteRun, tmp_path: Path
) -> None:
    run = write_run("skirts")
    page = open_page("en-US")
    page.get_by_role("tab", name="Checkpoints").click()
    page.locator("table.checkpoints button[data-action=card]").first.click()
    expect(page.locator("#prefix-card")).to_contain_text("Card of skirts / checkpoint-40")
    for name, text in (("card-name", "裙子广告"), ("card-tags", "ads, 裙子"), ("card-notes", "For skirts.")):
        page.locator(f"#{name} :is(input, textarea)").first.fill(text)
    page.locator("#card-save").click()
    first = page.locator("table.checkpoints tbody tr").first
    expect(first.locator(".title")).to_have_text("裙子广告")
    expect(first.locator(".tag")).to_have_text(["ads", "裙子"])
    page.locator("#card-close").click()
    expect(page.locator("#prefix-card")).to_be_hidden()
    page.locator("#find-words :is(input, textarea)").first.fill("for skirts")
    expect(page.locator("table.checkpoints tbody tr")).to_have_count(1)
    page.locator("#find-words :is(input, textarea)").first.fill("")
    expect(page.locator("table.checkpoints tbody tr")).not_to_have_count(1)
    page.get_by_role("tab", name="Compare").click()
    choose(page, "#right-model", "裙子广告")
    expect(page.locator("#right-head .chip")).to_contain_text("裙子广告 · step 40")
    pack(run.checkpoints()[-1], tmp_path / "taken.zip")
    page.get_by_role("tab", name="Checkpoints").click()
    try:
        with page.expect_file_chooser() as chooser:
            page.locator("#take-zip").click()
        chooser.value.set_files(tmp_path / "taken.zip")
        taken = page.locator("table.checkpoints tr", has_text="taken")
        expect(taken.locator(".title")).to_contain_text("裙子广告")
    finally:
        shutil.rmtree(served.output / "library", ignore_errors=True)
