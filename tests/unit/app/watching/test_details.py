"""A run's settings, name and note: shown, copied, changed; and its end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from app.tabs.train import TrainTab, Viewer
from app.tabs.training.form import OF_RUN, SAMPLE
from training.runs.store import RunStore
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

# Outside of an event Gradio takes an update of a menu for a new menu, one without choices.
pytestmark = pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")


@pytest.mark.parametrize(("language", "label"), [("en", "Prefix length"), ("zh", "前缀长度")])
def test_a_runs_settings_are_shown_and_those_that_were_changed_come_first(
    train: TrainTab, store: RunStore, request_in: Any, language: str, label: str
) -> None:
    store.get("new").update(settings=TrainingSettings(pre_seq_len=24))
    shown = train.on_tick(Viewer(), request_in(language))[train.details.settings]
    assert f"<dt>{label}</dt><dd>24</dd>" in shown.split("<details>")[0]
    assert "<dt>Seed</dt>" in shown.split("<details>")[1] or "<dt>随机种子</dt>" in shown.split("<details>")[1]


def test_a_runs_settings_and_its_own_data_go_into_the_form(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    shutil.copy(SAMPLE_TRAIN_FILE, data)
    settings = TrainingSettings(train_file=str(data), pre_seq_len=24, keep=0.25, prompt_column="content")
    store.create(settings, "mine")
    updates = train.details.on_copy("mine", request_in())
    assert updates[train.form["pre_seq_len"]].value == 24
    assert updates[train.form["keep"]].value == 0.25
    assert updates[train.source].value == OF_RUN and "mine" in updates[train.source].choices[-1][0]
    values = {train.source: OF_RUN, train.file_of_run: updates[train.file_of_run]}
    values |= {column: updates[column].value for column in train.columns.values()}
    chosen = train.data_of(values)
    assert chosen is not None and (chosen.path, chosen.prompt_column) == (str(data), "content")
    assert train.details.on_copy("old", request_in())[train.source].value == SAMPLE
    assert "nothing has started" in said[-1]


def test_data_that_this_page_may_not_read_is_not_copied(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    store.create(TrainingSettings(train_file="/etc/hostname"), "elsewhere")
    assert list(train.details.on_copy("elsewhere", request_in("zh"))) == [train.source]
    assert "--data-dir" in said[-1]


def test_every_setting_of_a_run_has_its_place_in_the_form(train: TrainTab) -> None:
    copied = train.services.care.copy("new")
    assert set(copied.values) == set(train.form)


def test_a_renamed_run_is_shown_with_its_checkpoints(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    shown = train.details.on_rename("new", "better name", request_in())
    assert shown[train.run].value == shown[train.details.name] == "better-name"
    assert {info.run_name for info in store.get("better-name").checkpoints()} == {"better-name"}
    train.details.on_rename("better-name", "old", request_in("zh"))
    assert "已存在" in said[-1] and store.get("old")


def test_a_note_is_there_after_a_refresh_and_is_not_overwritten_while_somebody_types(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    train.details.on_note("new", " 学习率减半 \n", request_in())
    first = train.on_tick(Viewer(), request_in())
    assert first[train.details.note] == "学习率减半"
    store.get("new").update(message_en="x", message_zh="y")
    assert train.details.note not in train.on_tick(first[train.viewer], request_in())


def test_a_run_is_deleted_only_when_the_question_is_answered_and_never_while_it_trains(
    train: TrainTab, store: RunStore, request_in: Any, said: list[str]
) -> None:
    assert "new" in train.details.on_ask("new", request_in())[train.details.asked]
    with store.get("new").lease.held():
        train.details.on_delete("new", request_in())
        assert "is being trained" in said[-1]
    after = train.details.on_delete("new", request_in())
    assert [run.name for run in store.list()] == ["old"] and after[train.run].value == "old"
