"""A run that begins anew, or goes on from an earlier step, loses nothing before it has something of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from past_runs import write_past_run
from small_runs import step_event
from tiny_checkpoint import tiny_settings

from app.training.run_view import RunFeed
from chatglm2.errors import RunError
from training.runs import process
from training.runs.checkpoints import find_checkpoints
from training.runs.events import FinishedEvent, MessageEvent, StepEvent, last_event
from training.runs.layout import LEASE_FILE
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings
from training.worker.alone import carry_out, conclude, train

REPORTS = ("base_answers.json", "report.html", "eval_report.json", "predict_results.json", "generated_predictions.txt")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("training"), max_steps=8, per_device_train_batch_size=4)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


@pytest.fixture
def earlier(store: RunStore, settings: TrainingSettings) -> Run:
    """A finished run with checkpoints, reports, and a file of its user's."""
    run = write_past_run(store.root, Path(settings.model_name_or_path), "run", (4, 8))
    for name in (*REPORTS, "my notes.txt"):
        (run.path / name).write_text("of before")
    return run


def steps(run: Run) -> list[int]:
    return [info.step for info in run.checkpoints()]


def names(place: Path) -> set[str]:
    return {item.name for item in place.iterdir() if item.name != LEASE_FILE}


@pytest.mark.parametrize("limit", [1, 2])
def test_resuming_from_an_earlier_step_sets_later_checkpoints_aside(
    store: RunStore, settings: TrainingSettings, limit: int
) -> None:
    run = store.create(settings, "run")
    train(run)
    run.update(resume_step=2, settings=replace(settings, max_steps=6, save_total_limit=limit))
    assert isinstance(train(run), FinishedEvent)
    assert steps(run) == [4, 6][-limit:]
    assert run.final_checkpoint().step == 6
    assert [info.step for info in find_checkpoints(run.path / "set-aside-1")] == [4, 6, 8]
    said = [event.en for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert any(words.endswith("are set aside in " + str(run.path / "set-aside-1") + ".") for words in said)


def test_what_was_set_aside_before_stays(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for attempt in (1, 2):
        (tmp_path / "checkpoint-9").mkdir()
        place = run.set_aside_after(4)
        assert place == tmp_path / f"set-aside-{attempt}"
        assert names(place) == {"checkpoint-9"}
    assert run.set_aside_after(4) is None


def test_a_replaced_run_is_there_until_the_new_one_has_a_checkpoint(
    store: RunStore, settings: TrainingSettings, earlier: Run
) -> None:
    run = store.create(replace(settings, max_steps=2), "run", overwrite=True)
    assert names(run.path) == {"run.json", "my notes.txt", "replaced"}
    assert [info.step for info in find_checkpoints(run.path / "replaced")] == [4, 8]
    assert (run.path / "replaced" / "report.html").read_text() == "of before"
    train(run)
    assert steps(run) == [2]
    assert run.replaced is None
    assert not {*REPORTS} & names(run.path)
    assert (run.path / "my notes.txt").exists()


def test_a_broken_row_costs_nothing_of_the_run_that_was_to_be_replaced(
    store: RunStore, settings: TrainingSettings, earlier: Run, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('{"content": "a", "summary": "b"}\n{"content": ')
    for _ in range(2):  # the second attempt replaces the first, which came to nothing, and not what lies there
        run = store.create(replace(settings, train_file=str(rows)), "run", overwrite=True)
        conclude(run, carry_out(run))
        assert run.state().status is Status.FAILED
        assert steps(run) == []
        assert [info.step for info in find_checkpoints(run.path / "replaced")] == [4, 8]
        kept = last_event(run.events()[0], MessageEvent)
        assert kept is not None and str(run.path / "replaced") in kept.en and str(run.path / "replaced") in kept.zh


def test_a_replaced_run_comes_back_if_the_new_one_cannot_be_started(
    store: RunStore, settings: TrainingSettings, earlier: Run
) -> None:
    before = {place: place.read_bytes() for place in earlier.path.rglob("*") if place.is_file()}
    run = store.create(settings, "run", overwrite=True)

    def fail(run: Run) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(RunError):
        process.start(run, fail)
    assert {place: place.read_bytes() for place in earlier.path.rglob("*") if place.is_file()} == before


def test_a_run_that_cannot_be_started_takes_nobodys_files_with_it(store: RunStore, settings: TrainingSettings) -> None:
    (store.root / "home").mkdir(parents=True)
    (store.root / "home" / "thesis.txt").write_text("years of work")
    run = store.create(settings, "home", overwrite=True)
    with pytest.raises(RunError):
        process.start(run, lambda run: Path("/nowhere").stat().st_mode)
    assert names(store.root / "home") == {"thesis.txt"}


@pytest.mark.parametrize("content", ["{", "null", None])
def test_a_run_whose_file_is_broken_can_be_replaced(
    store: RunStore, settings: TrainingSettings, earlier: Run, content: str | None
) -> None:
    (earlier.path / "run.json").unlink()
    if content is not None:
        (earlier.path / "run.json").write_text(content)
    run = store.create(settings, "run", overwrite=True)
    assert run.state().status is Status.STARTING
    assert steps(run) == []
    assert [info.step for info in find_checkpoints(run.path / "replaced")] == [4, 8]


def test_a_move_that_was_cut_off_is_finished_by_the_next(
    store: RunStore, settings: TrainingSettings, earlier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, moved = Path.replace, iter(range(100))

    def cut(self: Path, target: Path) -> Path:
        if next(moved) == 3:
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", cut)
        store.create(settings, "run", overwrite=True)
    run = store.create(settings, "run", overwrite=True)
    assert [info.step for info in find_checkpoints(run.path / "replaced")] == [4, 8]
    assert names(run.path) == {"run.json", "my notes.txt", "replaced"}


def test_an_open_page_does_not_mix_the_curve_of_a_run_with_that_of_the_one_before(
    store: RunStore, settings: TrainingSettings
) -> None:
    feed, run = RunFeed(), store.create(settings, "run")
    for step in (1, 2):
        run.append(step_event(step, loss=9.0))
    assert len(feed.read(run)) == 2
    again = store.create(settings, "run", overwrite=True)
    for step in (1, 2, 3, 4):  # longer than what was read before
        again.append(step_event(step, loss=1.0))
    assert [event.loss for event in feed.read(again) if isinstance(event, StepEvent)] == [1.0] * 4
    assert len(feed.read(again)) == 4
