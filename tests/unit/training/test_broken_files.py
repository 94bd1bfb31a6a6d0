"""Files of a run that are too large, no files at all, or gone while they are read: nothing waits, nothing fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from past_runs import write_past_run
from small_runs import step_event

from app.training.run_view import RunFeed, read_view
from chatglm2.errors import RunError
from training.cli.train import main
from training.runs import checkpoints as checkpoints_module
from training.runs.checkpoints import CheckpointKind
from training.runs.events import append_event, read_events
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings

TOO_LARGE_BYTES = 53_000_000


@pytest.fixture
def run(tmp_path: Path, demo_model_dir: Path) -> Run:
    return write_past_run(tmp_path / "output", demo_model_dir, "run", (2, 4, 6))


def as_pipe(file: Path) -> None:
    """A reader of a pipe waits for a writer, who never comes."""
    os.mkfifo(file)


def as_directory(file: Path) -> None:
    file.mkdir()


def as_large_file(file: Path) -> None:
    with file.open("wb") as large:
        large.truncate(TOO_LARGE_BYTES)


def as_deep_nest(file: Path) -> None:
    file.write_text("[" * 200_000, encoding="utf-8")


def as_null(file: Path) -> None:
    file.write_text("null", encoding="utf-8")


@pytest.mark.parametrize("make", [as_pipe, as_directory, as_large_file, as_deep_nest, as_null])
def test_what_should_be_a_small_file_may_be_anything(
    run: Run, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("events.jsonl", "train.log", "share", "checkpoint-4/prefix.json", "checkpoint-4/config.json")
    for name in (*names, "checkpoint-4/trainer_state.json"):
        (run.path / name).unlink(missing_ok=True)
        make(run.path / name)
    view = read_view(run, RunFeed().read(run))
    assert [info.step for info in view.checkpoints] == [2, 4, 6]
    assert view.losses == ()

    (run.path / "run.json").unlink()
    make(run.path / "run.json")
    store = RunStore(run.path.parent)
    store.create(TrainingSettings(), "other")
    assert [other.name for other in store.list()] == ["other"]
    with pytest.raises(RunError, match="is no training run"):
        run.state()
    assert main(["--list", "--output_dir", str(run.path)]) == 0
    listed = capsys.readouterr()
    assert "other" in listed.out
    assert str(run.path) in listed.err


def test_a_record_after_a_line_without_end_is_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_event(file, step_event(1))
    with file.open("ab") as log:
        log.truncate(TOO_LARGE_BYTES)
    _, offset = read_events(file)
    assert offset == TOO_LARGE_BYTES // 4_194_304 * 4_194_304 or offset > TOO_LARGE_BYTES - 4_194_304 - 1000
    append_event(file, step_event(2))
    append_event(file, step_event(3))
    for start in (0, offset):
        assert [getattr(event, "step", 0) for event in read_events(file, start)[0]][-1] == 3


def test_a_checkpoint_that_is_deleted_while_it_is_listed_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = checkpoints_module.checkpoint_kind

    def deleted_after(place: Path) -> CheckpointKind | None:
        found = kind(place)
        if place.name == "checkpoint-4":
            shutil.rmtree(place)
        return found

    monkeypatch.setattr(checkpoints_module, "checkpoint_kind", deleted_after)
    assert [info.step for info in run.checkpoints()] == [2, 6]


def test_a_checkpoints_file_that_is_deleted_while_it_is_measured_has_no_size(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checkpoints_module.read_json

    def deleted_before(file: Path, *limit: int) -> object:
        content = read(file, *limit)
        (file.parent / "prefix.safetensors").unlink()
        return content

    monkeypatch.setattr(checkpoints_module, "read_json", deleted_before)
    assert [info.size_bytes for info in run.checkpoints()] == [
        (run.checkpoint_path(step) / "prefix.json").stat().st_size for step in (2, 4, 6)
    ]


@pytest.mark.parametrize("name", ["-rf", "named-checkpoints.json", "--help"])
def test_no_run_is_called_like_an_option_or_a_file_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a run"):
        RunStore(tmp_path).create(TrainingSettings(), name)


def test_a_directory_that_is_being_deleted_is_no_run(run: Run) -> None:
    run.path.rename(run.path.with_name(".run.0123.deleted"))
    assert RunStore(run.path.parent).list() == []


def test_what_a_directory_of_runs_costs_grows_with_their_number_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing looks at each checkpoint's files once, and reads one of them."""
    opened = []
    open_regular = checkpoints_module.read_json

    def counted(file: Path, *limit: int) -> object:
        opened.append(file.name)
        return open_regular(file, *limit)

    monkeypatch.setattr(checkpoints_module, "read_json", counted)
    assert len(run.checkpoints()) == 3
    assert sorted(opened) == ["prefix.json"] * 3 + ["strength.json"] * 3
    assert json.loads((run.path / "run.json").read_text(encoding="utf-8"))["format"] == 1
