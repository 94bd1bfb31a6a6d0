"""The stylesheet does its work: what stands where, what fits, and what can be read, at two sizes and in two themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect
from served_page import OpenPage, WriteRun, ask

from training.runs.store import Run

LEAST_CONTRAST = 4.5  # WCAG 2.1, level AA
LONG = "https://example.org/" + "a" * 300 + " `" + "b" * 300 + "`"


@pytest.fixture
def past_run(write_run: WriteRun) -> Run:
    return write_run("past")


def box(place: Locator) -> FloatRect:
    found = place.bounding_box()
    assert found is not None
    return found


def computed(place: Locator, name: str) -> str:
    return str(place.evaluate("(element, name) => getComputedStyle(element)[name]", name))


def pixels(place: Locator, name: str) -> float:
    """A computed length; 0 for "none" and "normal"."""
    value = computed(place, name)
    return float(value.removesuffix("px")) if value.endswith("px") else 0.0


def show_tab(page: Page, place: int) -> None:
    page.get_by_role("tab").nth(place).click()


def in_a_row(*places: Locator) -> bool:
    tops = [box(place)["y"] for place in places]
    return max(tops) - min(tops) < 1


def in_view(page: Page, place: Locator) -> bool:
    size, found = page.viewport_size, box(place)
    assert size is not None
    across = found["x"] >= 0 and found["x"] + found["width"] <= size["width"]
    return across and found["y"] >= 0 and found["y"] + found["height"] <= size["height"]


def test_the_panes_stand_side_by_side_and_equally_wide(open_page: OpenPage) -> None:
    page = open_page()
    left, right = page.locator(".pane").all()
    assert in_a_row(left, right)
    assert box(left)["width"] == pytest.approx(box(right)["width"], abs=1)
    assert box(left)["width"] > 0.45 * 1280
    assert box(page.locator("#left-chat"))["height"] == box(page.locator("#right-chat"))["height"]
    assert pixels(page.locator(".gradio-container"), "maxWidth") == 1440  # lines that can be read on a wide screen


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_question_is_asked_without_scrolling(open_page: OpenPage, width: int, height: int) -> None:
    page = open_page(width=width, height=height)
    for name in ("#message", "#send", "#undo", "#clear", "#export"):
        assert in_view(page, page.locator(name)), name
    if width == 1280:
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        assert all(in_view(page, example) for example in page.locator("#examples button").all())  # none is cut off
        assert in_a_row(page.locator("#undo"), page.locator("#clear"), page.locator("#export"))


def test_on_a_phone_a_pane_fills_the_screen_and_the_other_is_a_swipe_away(open_page: OpenPage) -> None:
    page = open_page(width=390, height=844)
    left, right = page.locator(".pane").all()
    assert in_a_row(left, right)
    assert box(left)["width"] > 0.85 * 390
    assert in_view(page, left) and not in_view(page, right)
    page.locator("#panes").evaluate("panes => panes.scrollTo(panes.scrollWidth, 0)")
    expect(right).to_be_in_viewport(ratio=0.95)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [1280, 390])
def test_what_is_long_stays_inside_its_bubble(open_page: OpenPage, width: int) -> None:
    page = open_page(width=width)
    ask(page, LONG)
    chat = box(page.locator("#left-chat"))
    for message in page.locator("#left-chat [data-testid=user], #left-chat [data-testid=bot]").all():
        bubble = box(message)
        assert chat["x"] <= bubble["x"] and bubble["x"] + bubble["width"] <= chat["x"] + chat["width"]
        assert message.evaluate("element => element.scrollWidth <= element.clientWidth + 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_status_and_chips_look_like_what_they_are(open_page: OpenPage, past_run: Run) -> None:
    page = open_page()
    assert in_a_row(*page.locator("#status .status-line > span").all())
    assert pixels(page.locator("#status .status-line"), "columnGap") >= 12  # facts do not run into each other
    base, tuned = page.locator("#left-head .chip"), page.locator("#right-head .chip")
    expect(tuned).to_contain_text("past")
    for chip in (base, tuned):
        assert pixels(chip, "borderRadius") >= box(chip)["height"] / 2
        assert pixels(chip, "borderTopWidth") >= 1
    assert computed(base, "color") != computed(tuned, "color")
    assert computed(base, "backgroundColor") != computed(tuned, "backgroundColor")
    facts = page.locator("#left-facts .pane-facts")
    assert pixels(facts, "fontSize") < pixels(page.locator("body"), "fontSize")


def test_a_run_is_seen_at_a_glance(open_page: OpenPage, past_run: Run) -> None:
    page = open_page()
    show_tab(page, 1)
    bar, done = page.locator("#run-progress .bar"), page.locator("#run-progress .bar i")
    expect(bar).to_be_visible()
    assert 4 <= box(bar)["height"] <= 16
    assert box(done)["width"] == pytest.approx(box(bar)["width"], abs=1)
    assert computed(bar, "backgroundColor") != computed(done, "backgroundColor")
    badge = page.locator("#run-progress .badge")
    assert pixels(badge, "borderRadius") >= box(badge)["height"] / 2
    assert in_a_row(*page.locator("#run-progress .numbers > div").all())
    curve = page.locator("#loss-chart .curve")
    assert computed(curve, "fill") == "none" and pixels(curve, "strokeWidth") == 2
    page.locator("#run-log summary").click()
    log = page.locator("#run-log .technical .log")
    assert box(log)["height"] <= 240
    assert log.evaluate("log => log.scrollHeight > log.clientHeight && log.scrollTop === 0")  # pinned to its end
    assert in_a_row(*(page.locator(f"#setting-{name}") for name in ("max_steps", "learning_rate")))
    assert in_a_row(page.locator("#training > div").nth(0), page.locator("#live"))


def test_the_table_of_checkpoints_becomes_cards_on_a_phone(open_page: OpenPage, past_run: Run) -> None:
    wide, narrow = open_page(), open_page(width=390, height=844)
    for page in (wide, narrow):
        show_tab(page, 3)
    expect(wide.locator("table.checkpoints thead")).to_be_visible()
    row = wide.locator("table.checkpoints tbody tr").first
    assert in_a_row(*row.locator(".actions > *").all())
    expect(narrow.locator("table.checkpoints thead")).to_be_hidden()
    for button in narrow.locator("table.checkpoints tbody tr").first.locator(".actions button").all():
        assert in_view(narrow, button)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read(open_page: OpenPage, repository: Path, past_run: Run, dark: bool) -> None:
    page = open_page(dark=dark)
    script = (repository / "tests" / "browser" / "contrast.js").read_text(encoding="utf-8")
    ask(page, "你好")
    page.locator("#sampling > button").click()
    complaints: list[str] = []
    for place in range(4):
        show_tab(page, place)
        if place == 1:
            page.locator("#more-settings > button").click()
            page.locator("#data-preview > button").click()
            expect(page.locator("#data-rows li").first).to_be_visible(timeout=20_000)
            expect(page.locator("#retention figure")).to_be_visible()
        page.wait_for_timeout(500)  # colours fade in
        seen: dict[str, Any] = page.evaluate(script, LEAST_CONTRAST)
        assert seen["measured"] > 20
        complaints += seen["complaints"]
    assert complaints == []
