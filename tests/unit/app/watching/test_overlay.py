"""A run's curves among other runs', and what their settings differ in."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from app.tabs.train import TrainTab
from app.tabs.training.overlay import MOST_OTHERS, NOTHING_SHOWN
from training.runs.store import RunStore
from training.settings.train import TrainingSettings

pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


def test_runs_are_drawn_over_each_other_with_a_table_of_what_differs(
    train: TrainTab, store: RunStore, request_in: Any
) -> None:
    store.get("old").update(settings=TrainingSettings(pre_seq_len=24, learning_rate=0.01))
    store.get("new").update(settings=TrainingSettings(pre_seq_len=48, learning_rate=0.01))
    first = train.overlay.on_tick("new", [], NOTHING_SHOWN, ["old", "gone"], request_in("zh"))
    assert first[train.overlay.others].value == ["old"], "a browser keeps what was chosen, but for what is gone"
    drawn = first[train.overlay.curves]
    assert drawn.count("<polyline") == 2 * drawn.count("<svg") and drawn.count("<svg") >= 4
    assert "<td>48</td><td>24</td>" in drawn and "前缀长度" in drawn and "学习率</th><td>" not in drawn
    again = train.overlay.on_tick("new", ["old"], first[train.overlay.shown], [], request_in("zh"))
    assert list(again) == [train.overlay.shown], "nothing is sent where nothing is new"
    none = train.overlay.on_tick("new", [], first[train.overlay.shown], ["old"], request_in())
    assert none[train.overlay.curves] == "" and none[train.overlay.box].visible


def test_no_more_than_five_are_drawn_and_a_lone_run_has_nothing_beside_it(
    train: TrainTab, store: RunStore, request_in: Any
) -> None:
    names = [store.create(TrainingSettings(), f"run-{number}").name for number in range(7)]
    shown = train.overlay.on_tick("new", names, ("x",), [], request_in())
    assert len(shown[train.overlay.others].value) == MOST_OTHERS == len(train.overlay.on_choose(names))
    for name in (*names, "old"):
        shutil.rmtree(store.get(name).path)
    assert not train.overlay.on_tick("new", [], NOTHING_SHOWN, [], request_in())[train.overlay.box].visible
