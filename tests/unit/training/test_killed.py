"""Whoever is killed while it changes files leaves nothing that looks whole and is not, and loses nothing that was."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from past_runs import write_past_run
from tiny_checkpoint import write_tiny_checkpoint
from writers import change_again_and_again, in_another_process, killed_at_each_step

from app.training.service import TrainingService
from chatglm2.errors import RunError
from training.evaluation.answering import Answer
from training.evaluation.journal import Journal
from training.runs import storage
from training.runs.checkpoints import checkpoints_in, find_checkpoints
from training.runs.export import ExportRequest, export
from training.runs.layout import discard_leftovers
from training.runs.results import write_results
from training.runs.storage import publish_directory, write_together
from training.runs.store import RUN_FILE, Run, RunStore
from training.settings.train import TrainingSettings


@dataclass(frozen=True)
class Trained:
    model: Path
    run: Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    model = write_tiny_checkpoint(tmp_path_factory.mktemp("model"))
    return Trained(model, write_past_run(tmp_path_factory.mktemp("output"), model, "run", (4, 8)))


def files_in(place: Path) -> dict[str, bytes]:
    return {str(item.relative_to(place)): item.read_bytes() for item in place.rglob("*") if item.is_file()}


def visible(place: Path) -> list[str]:
    return sorted(item.name for item in place.iterdir() if not item.name.startswith("."))


@pytest.mark.parametrize("kind", ["original", "peft", "glm"])
def test_an_export_that_is_killed_is_not_there_and_the_next_one_clears_up(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    source = str(trained.model if kind == "glm" else trained.run.path)
    request = ExportRequest(source, kind, tmp_path / "out", base_model=str(trained.model))
    export(request)
    whole = files_in(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for _ in killed_at_each_step(export, request):
        if visible(tmp_path):  # it was killed after it had come to its place
            assert files_in(tmp_path / "out").keys() == whole.keys()
            shutil.rmtree(tmp_path / "out")
    assert files_in(tmp_path / "out").keys() == whole.keys()
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def _publish(target: Path) -> None:
    staged = target.parent / "staging"
    staged.mkdir(exist_ok=True)
    (staged / "file").write_text("new")
    publish_directory(staged, target)


def test_a_checkpoint_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-4"
    target.mkdir()
    (target / "file").write_text("old")
    for _ in killed_at_each_step(_publish, target):
        discard_leftovers(tmp_path)
        assert (target / "file").read_text() in ("old", "new")
        (target / "file").write_text("old")
        assert {item.name for item in tmp_path.iterdir()} <= {target.name, "staging"}
    assert (target / "file").read_text() == "new"


def _begin_anew(root: Path) -> None:
    RunStore(root).create(TrainingSettings(), "run", overwrite=True)


def test_a_run_that_is_replaced_keeps_its_checkpoints_wherever_the_move_ends(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run.path, tmp_path / "run")
    before = {info.step: info.path.name for info in trained.run.checkpoints()}
    for _ in killed_at_each_step(_begin_anew, tmp_path):
        places = [place for place in (tmp_path / "run", tmp_path / "run" / "replaced") if place.is_dir()]
        found = [info.step for place in places for info in checkpoints_in(place)]
        assert sorted(found) == [*before]
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(trained.run.path, tmp_path / "run")
    assert [info.step for info in find_checkpoints(tmp_path / "run" / "replaced")] == [*before]


def _write_pair(place: Path) -> None:
    write_together({place / "a.json": "new" * 9, place / "b.json": "new" * 9})


def test_each_file_of_several_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("old")
    for _ in killed_at_each_step(_write_pair, tmp_path):
        assert visible(tmp_path) == ["a.json", "b.json"]
        assert {(tmp_path / name).read_text() for name in visible(tmp_path)} <= {"old", "new" * 9}


def _keep(source: Path, root: Path) -> None:
    kept = root / "rows.json"
    kept.parent.mkdir(exist_ok=True)
    TrainingService._copy(source, kept)


def test_a_data_file_that_is_kept_is_whole_or_not_there_and_the_next_one_clears_up(tmp_path: Path) -> None:
    source = tmp_path / "rows.json"
    source.write_text("row\n" * 1000)
    for _ in killed_at_each_step(_keep, source, tmp_path / "kept"):
        kept = tmp_path / "kept" / "rows.json"
        if kept.exists():
            assert kept.read_bytes() == source.read_bytes()
            kept.unlink()
    assert [item.name for item in (tmp_path / "kept").iterdir()] == ["rows.json"]
    assert (tmp_path / "kept" / "rows.json").read_bytes() == source.read_bytes()


def test_changes_of_several_threads_and_processes_are_all_kept(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingSettings(), "run")
    with ThreadPoolExecutor(4) as threads:
        others = [
            threads.submit(in_another_process, change_again_and_again, run.path, f"process_{n}", 40) for n in (1, 2)
        ]
        ours = [threads.submit(change_again_and_again, run.path, f"thread_{n}", 40) for n in (1, 2)]
    assert [other.result() for other in others] == [0, 0]
    assert [one.result() for one in ours] == [None, None]
    last = run.state().model_dump()
    assert [last[name] for name in ("process_1", "process_2", "thread_1", "thread_2")] == [39] * 4


def test_results_that_are_written_at_the_same_time_are_all_gathered(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: write_results(tmp_path, f"part{n}", {f"part{n}_loss": n}), range(20)))
    gathered = json.loads((tmp_path / "all_results.json").read_text())
    assert gathered == {f"part{n}_loss": n for n in range(20)}


def answer(text: str) -> list[Answer]:
    return [Answer(text, is_cut=False)]


def test_an_evaluation_does_not_take_up_the_answers_of_another_that_still_runs(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    earlier, later = Journal(file, "a", 1), Journal(file, "b", 1)
    earlier.begin(9)
    later.begin(9)
    earlier.append(3, answer("of the earlier one"))
    later.append(4, answer("of the later one"))
    assert Journal(file, "b", 1).begin(9) == {4: answer("of the later one")}


def test_who_is_alone_with_a_file_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStore(tmp_path).create(TrainingSettings(), "run")
    monkeypatch.setattr(storage, "CHANGE_SECONDS", 0.05)
    with storage.changing(run.path / RUN_FILE), pytest.raises(RunError, match="being changed by another process"):
        run.update(message_en="x")
    run.update(message_en="y")
    assert run.state().message_en == "y"


def test_a_run_that_is_gone_does_not_come_back_by_being_changed(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingSettings(), "run")
    shutil.rmtree(run.path)
    with pytest.raises(RunError, match="is no training run"):
        run.update(message_en="x")
    assert not run.path.exists()
