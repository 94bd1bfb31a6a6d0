"""The line on the Train tab: what Start says, who waits, and what several settings came to."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.services import Services
from app.tabs.train import TrainTab, Viewer
from app.training.line import Line
from app.training.sweeps import best_of
from training.queue import line
from training.queue.sweep import brief
from training.runs import process
from training.runs.events import EvaluationEvent
from training.runs.store import RunStore, Status
from training.settings.train import TrainingSettings

# Outside of an event Gradio takes an update of a menu for a new menu, one without choices.
pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
NOBODY = Line((), must_wait=False)


@pytest.fixture(autouse=True)
def _nothing_is_read(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a form asks for is taken as it is: a page without a model could neither count tokens nor memory."""
    training = services.training
    monkeypatch.setattr(training, "_checked", lambda data, form: settings_of(form))
    monkeypatch.setattr(training, "_settings", lambda data, form: settings_of(form))


def settings_of(form: Any) -> TrainingSettings:
    names = ("pre_seq_len", "learning_rate", "max_steps")
    return TrainingSettings.from_dict({name: form[name] for name in names})


def values_of(train: TrainTab, **lists: str) -> dict[Any, Any]:
    values = {component: component.value for component in [*train.typed, train.file_of_run, train.name, train.pins]}
    values[train.name] = "mine"
    return values | {component: lists.get(name, "") for name, component in train.sweep.lists.items()}


def test_start_says_queue_while_a_run_trains_and_then_puts_the_run_in_line(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    assert train.start not in train.line.on_tick(NOBODY, request_in())
    now = store.create(TrainingSettings(), "now")
    process.start(now, lambda run: os.getpid())
    shown = train.line.on_tick(NOBODY, request_in("zh"))
    assert shown[train.start].value == "排队"
    viewer = train.on_tick(Viewer(), request_in())[train.viewer]
    assert viewer.shown == "now"

    shown = train.on_start(values_of(train), request_in())
    assert store.get("mine").state().status is Status.QUEUED
    assert "mine is in line" in said[-1]
    assert "mine" in shown[train.line.line] and "Take out" in shown[train.line.line]
    assert train.on_tick(Viewer(), request_in())[train.viewer].shown == "now", "the page left the run that trains"
    assert "in line" in train.on_pick("mine", request_in())[train.progress]


def test_a_run_is_taken_out_by_the_button_beside_it(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    run = store.create(TrainingSettings(), "waits")
    line.join(run)
    event: Any = SimpleNamespace(run="waits")
    shown = train.line.on_take_out(event, request_in())
    assert shown[train.line.line] == "" and shown[train.start].value == "Start training"
    assert run.state().status is Status.STOPPED
    assert train.on_pick("waits", request_in())[train.resume].visible
    assert train.on_tick(Viewer(), request_in())[train.viewer].shown == "new", "what was never trained shows nothing"
    train.line.on_take_out(event, request_in("zh"))
    assert "不在队列中" in said[-1]


def test_resume_waits_behind_those_that_came_before(train: TrainTab, store: RunStore, request_in: Any) -> None:
    line.join(store.create(TrainingSettings(), "first"))
    store.get("new").update(status=Status.STOPPED)
    train.on_resume("new", request_in())
    assert [run.name for run in line.waiting(store)] == ["first", "new"]


def test_every_combination_becomes_a_run_in_line_and_a_row_of_the_table(
    train: TrainTab, store: RunStore, services: Services, request_in: Any, said: list[str]
) -> None:
    lists = {"pre_seq_len": "8，16", "learning_rate": "0.1, 0.10 0.05"}
    shown = train.sweep.on_begin(values_of(train, **lists), request_in("zh"))
    assert "4 次训练已加入队列" in said[-1]
    names = [run.name for run in line.waiting(store)]
    assert names == [f"mine-p{length}-lr{rate}-s100" for length in (8, 16) for rate in ("0.1", "0.05")]
    assert [brief(store.get(name).settings()) for name in names] == [name.removeprefix("mine-") for name in names]

    for name, loss in zip(names, (2.0, 1.0, 3.0, 4.0), strict=True):
        store.get(name).append(EvaluationEvent(step=1, metrics={"loss": loss, "rouge-l": 31.5}))
    rows = services.sweeps.results("mine")
    best = best_of(rows)
    assert [row.name for row in rows] == names and best is not None and best.name == names[1]
    ticked = train.sweep_table.on_tick(shown[train.sweep_table.told], None, request_in())
    table = ticked[train.sweep_table.table]
    assert "rouge-l" in table and "31.5" in table and table.count("lowest</span>") == 1
    assert list(train.sweep_table.on_tick(ticked[train.sweep_table.told], "mine", request_in())) == [
        train.sweep_table.told
    ]


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({}, "at least two values"),
        ({"max_steps": "1,2,3,4,5", "pre_seq_len": "1,2,3,4"}, "4 × 5 = 20"),
        ({"pre_seq_len": "8, eight"}, "“Prefix length” must be a whole number"),
    ],
)
def test_lists_that_cannot_be_runs_are_refused_and_make_none(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str], lists: dict[str, str], sentence: str
) -> None:
    train.sweep.on_begin(values_of(train, **lists), request_in())
    assert sentence in said[-1]
    assert [run.name for run in store.list()] == ["new", "old"]


def test_a_name_that_is_taken_makes_no_run_at_all(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    store.create(TrainingSettings(), "mine-p16-lr0.05-s100").update(status=Status.FINISHED)
    train.sweep.on_begin(values_of(train, pre_seq_len="8, 16"), request_in())
    assert "exists already" in said[-1]
    assert {run.name for run in store.list()} == {"mine-p16-lr0.05-s100", "new", "old"}


def test_visitors_who_only_watch_see_the_line_without_buttons(train: TrainTab, store: RunStore) -> None:
    line.join(store.create(TrainingSettings(), "waits"))
    from app.tabs.translations import speech_for

    shown = train.line.show(speech_for(None), may_change=False)
    assert "waits" in shown[train.line.line] and "button" not in shown[train.line.line]
    assert isinstance(train.line.start, gr.Button)
