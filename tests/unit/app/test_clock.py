"""One request tells every part of the page what is new."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from app.tabs.access import open_to_all
from app.tabs.clock import BUSY_SECONDS, IDLE_SECONDS, Clock


class Tabs:
    """Two parts of a page, and the clock that tells them."""

    def __init__(self, *, busy: bool = False) -> None:
        self.first, self.second, self.third = gr.Textbox(), gr.Textbox(), gr.Textbox()
        self.clock = Clock(lambda: busy)

    def tick(self, **values: str) -> dict[Any, Any]:
        given = {getattr(self, name): value for name, value in values.items()}
        return self.clock.on_tick({self.clock.pause: BUSY_SECONDS, **given}, gr.Request())


@open_to_all
def nothing_new() -> Any:
    return gr.skip()


@open_to_all
def breaks() -> Any:
    raise OSError("no space left")


def test_every_part_hears_what_it_asked_for_and_says_what_is_new() -> None:
    tabs = Tabs()
    tabs.clock.tick(open_to_all(lambda text, request: text.upper()), [tabs.first], [tabs.second])
    tabs.clock.tick(open_to_all(lambda: {tabs.third: "c"}), [], [tabs.third])
    tabs.clock.tick(nothing_new, [], [tabs.first])
    updates = tabs.tick(first="a")
    assert updates[tabs.second] == "A" and updates[tabs.third] == "c" and tabs.first not in updates


def test_a_part_that_breaks_keeps_no_other_from_being_told() -> None:
    tabs = Tabs()
    tabs.clock.tick(breaks, [], [tabs.first])
    tabs.clock.tick(open_to_all(lambda: "b"), [], [tabs.second])
    assert tabs.tick()[tabs.second] == "b"


def test_it_asks_less_often_where_nothing_runs() -> None:
    calm, busy = Tabs(), Tabs(busy=True)
    assert calm.tick()[calm.clock.pause] == IDLE_SECONDS
    assert busy.tick()[busy.clock.pause] == gr.skip()


def test_what_is_the_operators_is_not_called_for_everybody() -> None:
    with pytest.raises(ValueError, match="open_to_all"):
        Tabs().clock.tick(lambda: "", [], [])
