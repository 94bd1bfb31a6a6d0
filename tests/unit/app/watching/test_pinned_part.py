"""Pinned prompts on the page: shown by step, changed by the operator, there after a refresh."""

from __future__ import annotations

from typing import Any

import pytest

from app.tabs.train import TrainTab, Viewer
from training.runs.events import PinnedAnswer, PinnedEvent
from training.runs.pins import read_pins
from training.runs.store import RunStore

pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


def test_answers_are_shown_by_step_base_beside_prefix_and_do_nothing(
    train: TrainTab, store: RunStore, request_in: Any
) -> None:
    for step, tuned in ((20, "<i>twenty"), (40, "forty")):
        answers = [PinnedAnswer(prompt="你好", base="base says", tuned=tuned)]
        store.get("new").append(PinnedEvent(step=step, answers=answers))
    shown = train.on_tick(Viewer(), request_in())
    assert "forty" in shown[train.pinned.answers] and "base says" in shown[train.pinned.answers]
    assert [value for _, value in shown[train.pinned.step].choices] == [20, 40]
    assert "&lt;i&gt;twenty" in train.pinned.on_step("new", 20, request_in("zh"))


def test_what_is_pinned_is_kept_with_the_run_line_breaks_too(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    train.pinned.on_pin("new", "one\\ntwo\n\nthree", request_in())
    assert read_pins(store.get("new")) == ["one\ntwo", "three"]
    assert train.on_tick(Viewer(), request_in())[train.pinned.prompts] == "one\\ntwo\nthree"
    train.pinned.on_pin("new", "\n".join("123456"), request_in("zh"))
    assert "最多固定 5 条" in said[-1] and len(read_pins(store.get("new"))) == 2
