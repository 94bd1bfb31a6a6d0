"""Pinned prompts on the page: shown by step, changed by the operator, there after a refresh."""

from __future__ import annotations

from typing import Any

import pytest

from app.tabs.train import TrainTab, Viewer
from app.tabs.training.pinned import NOTHING_SHOWN, PinnedPart
from app.tabs.training.prompt_lines import as_lines, from_lines
from training.runs.events import PinnedAnswer, PinnedEvent
from training.runs.pins import read_pins
from training.runs.store import RunStore
from training.settings.train import TrainingSettings

pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


@pytest.fixture
def pinned(train: TrainTab) -> PinnedPart:
    return train.pinned


def answer(store: RunStore, *steps: int) -> None:
    for step in steps:
        answers = [PinnedAnswer(prompt="你好", base="base says", tuned=f"<i>of {step}")]
        store.get("new").append(PinnedEvent(step=step, answers=answers))


def test_answers_are_shown_by_step_base_beside_prefix_and_do_nothing(
    pinned: PinnedPart, store: RunStore, request_in: Any
) -> None:
    answer(store, 0, 20, 40, 55)
    shown = pinned.on_tick("new", NOTHING_SHOWN, {}, request_in())
    assert "of 55" in shown[pinned.answers] and "base says" in shown[pinned.answers]
    slider = shown[pinned.step]
    assert (slider.minimum, slider.maximum, slider.value, slider.step) == (0, 55, 55, 5)
    looked, answers = pinned.on_step("new", 25, request_in("zh"))
    assert "&lt;i&gt;of 20" in answers and looked == {"run": "new", "step": 20}


def test_new_answers_leave_a_reader_where_he_is_and_follow_one_who_is_at_the_newest(
    pinned: PinnedPart, store: RunStore, request_in: Any
) -> None:
    answer(store, 0, 20, 40)
    older, _ = pinned.on_step("new", 20, request_in())
    newest, _ = pinned.on_step("new", 40, request_in())
    before = pinned.on_tick("new", NOTHING_SHOWN, older, request_in())[pinned.shown]
    assert list(pinned.on_tick("new", before, older, request_in())) == [pinned.shown]
    answer(store, 60)
    later = pinned.on_tick("new", before, older, request_in())
    assert later[pinned.step].value == 20 and later[pinned.step].maximum == 60 and "of 20" in later[pinned.answers]
    assert pinned.on_tick("new", before, newest, request_in())[pinned.step].value == 60
    refreshed = pinned.on_tick("new", NOTHING_SHOWN, older, request_in())
    assert refreshed[pinned.step].value == 20, "a browser keeps where its reader was"
    assert pinned.on_tick("new", NOTHING_SHOWN, {**older, "run": "old"}, request_in())[pinned.step].value == 60


def test_what_somebody_types_is_overwritten_only_by_another_runs_prompts(
    pinned: PinnedPart, store: RunStore, request_in: Any
) -> None:
    first = pinned.on_tick("new", NOTHING_SHOWN, None, request_in())
    assert pinned.prompts in first
    answer(store, 20)
    assert pinned.prompts not in pinned.on_tick("new", first[pinned.shown], None, request_in())
    assert pinned.prompts in pinned.on_tick("old", first[pinned.shown], None, request_in())


def test_without_a_run_nothing_is_pinned(pinned: PinnedPart, request_in: Any) -> None:
    shown = pinned.on_tick("new", NOTHING_SHOWN, {}, request_in())[pinned.shown]
    assert not pinned.on_tick(None, shown, {}, request_in())[pinned.box].visible
    assert not pinned.on_tick("deleted", shown, {}, request_in())[pinned.box].visible


@pytest.mark.parametrize(("length", "words"), [(16, "加上训练到此时的前缀"), (None, "训练到此时的全部权重")])
def test_the_column_says_what_was_trained(
    pinned: PinnedPart, store: RunStore, request_in: Any, length: int | None, words: str
) -> None:
    store.get("new").update(settings=TrainingSettings(pre_seq_len=length, keep=0, prefix_init="random"))
    answer(store, 20)
    assert words in pinned.on_tick("new", NOTHING_SHOWN, {}, request_in("zh"))[pinned.answers]


def test_what_is_pinned_is_kept_with_the_run_line_breaks_too(
    pinned: PinnedPart, store: RunStore, request_in: Any, said: list[str]
) -> None:
    pinned.on_pin("new", "one\\ntwo\n\nthree", request_in())
    assert read_pins(store.get("new")) == ["one\ntwo", "three"]
    assert pinned.on_tick("new", NOTHING_SHOWN, {}, request_in())[pinned.prompts] == "one\\ntwo\nthree"
    pinned.on_pin("new", "\n".join("123456"), request_in("zh"))
    assert "最多固定 5 条" in said[-1] and len(read_pins(store.get("new"))) == 2


def test_the_form_proposes_the_first_rows_and_takes_those_of_a_copied_run(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    assert len(from_lines(train.pins.value)) == 3
    train.pinned.on_pin("new", "mine", request_in())
    assert train.details.on_copy("new", request_in())[train.pins] == "mine"
    assert from_lines(as_lines(["a\nb", "c"])) == ["a\nb", "c"]
    assert train.pinned.box not in train.on_tick(Viewer(), request_in()), "it has its own tick"
