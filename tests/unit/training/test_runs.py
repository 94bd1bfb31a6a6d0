"""A run is its directory: complete or not there, readable by anyone, and never outside its store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from chatglm2 import save_prefix
from chatglm2.errors import RunError
from training.runs.checkpoints import RESUME_FILES, checkpoint_kind, checkpoints_in, find_checkpoints
from training.runs.liveness import is_running, start_time
from training.runs.storage import (
    DELETED,
    PARTIAL,
    REPLACED,
    hidden_name,
    publish_directory,
    write_atomically,
)
from training.runs.store import LAUNCH_SECONDS, Run, RunStore, Status
from training.settings.train import TrainingSettings

SETTINGS = TrainingSettings(max_steps=4)
CONFIG_OF_MODEL = '{"model_type": "chatglm", "pre_seq_len": null}'
CONFIG_OF_PREFIX = '{"model_type": "chatglm", "pre_seq_len": 128}'


def add_checkpoint(run: Run, step: int, *, resumable: bool = True) -> Path:
    directory = run.checkpoint_path(step)
    directory.mkdir()
    save_prefix({"embedding.weight": torch.zeros(2, 8)}, directory)
    metadata = {"run": run.name, "step": step, "loss": 1.5, "pre_seq_len": 2, "prefix_projection": False}
    (directory / "prefix.json").write_text(json.dumps(metadata))
    for name in RESUME_FILES if resumable else ():
        (directory / name).write_text("{}")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def test_a_created_run_can_be_found_again(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    assert [found.name for found in store.list()] == ["my-run"]
    assert store.get("my-run").settings() == SETTINGS
    assert run.state().status is Status.STARTING


def test_the_newest_run_comes_first(store: RunStore) -> None:
    for name in ("first", "second", "third"):
        store.create(SETTINGS, name)
        time.sleep(0.01)
    assert [run.name for run in store.list()] == ["third", "second", "first"]


def test_runs_without_a_name_get_different_ones(store: RunStore) -> None:
    names = {store.create(SETTINGS).name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("train-p16-") for name in names)


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".hidden", "a b", "a\\b", "x" * 101, "a\n"])
def test_no_name_leads_out_of_the_store(store: RunStore, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a run"):
        store.create(SETTINGS, name)
    with pytest.raises(RunError, match="cannot name a run"):
        store.get(name)


def test_a_name_may_be_chinese(store: RunStore) -> None:
    assert store.create(SETTINGS, "广告-1").name == "广告-1"


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(store: RunStore) -> None:
    add_checkpoint(store.create(SETTINGS, "my-run"), 2)
    with pytest.raises(RunError, match="exists already"):
        store.create(SETTINGS, "my-run")
    assert store.create(SETTINGS, "my-run", overwrite=True).checkpoints() == []


def test_what_the_page_shows_of_a_taken_name_speaks_of_no_flag(store: RunStore) -> None:
    store.create(SETTINGS, "my-run")
    with pytest.raises(RunError, match="exists already") as refused:
        store.create(SETTINGS, "my-run")
    assert "--" not in refused.value.en + refused.value.zh


def test_someone_elses_directory_is_not_taken_over(store: RunStore) -> None:
    (store.root / "notes").mkdir(parents=True)
    (store.root / "notes" / "todo.txt").write_text("keep me")
    with pytest.raises(RunError, match="exists already"):
        store.create(SETTINGS, "notes")


def test_an_unknown_run_names_the_ones_there_are(store: RunStore) -> None:
    store.create(SETTINGS, "here")
    with pytest.raises(RunError, match="the latest are: here"):
        store.get("gone")


def test_a_damaged_run_does_not_hide_the_others(store: RunStore) -> None:
    store.create(SETTINGS, "good")
    (store.create(SETTINGS, "bad").path / "run.json").write_text("{")
    assert [run.name for run in store.list()] == ["good"]
    with pytest.raises(RunError, match="is no training run"):
        Run(store.root / "bad").state()


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("state.pid", "twelve", "state.pid must be a whole number; found 'twelve'"),
        ("state.pid_started_at", [], "state.pid_started_at must be a number; found []"),
        ("state.status", "asleep", "state.status must be one of 'starting', 'running', "),
        ("state", 7, "state must be an object; found 7"),
        ("settings", [], "settings must be an object; found []"),
        ("created_at", "yesterday", "created_at must be a number; found 'yesterday'"),
    ],
)
def test_a_run_file_with_a_wrong_value_is_named_and_hides_no_other_run(
    store: RunStore, place: str, value: object, problem: str
) -> None:
    store.create(SETTINGS, "good")
    file = store.create(SETTINGS, "bad").path / "run.json"
    content = json.loads(file.read_text())
    *above, name = place.split(".")
    (content[above[0]] if above else content)[name] = value
    file.write_text(json.dumps(content))
    assert [run.name for run in store.list()] == ["good"]
    assert store.active() is None
    with pytest.raises(RunError) as refusal:
        Run(store.root / "bad").created_at()
    assert problem in refusal.value.en
    assert place in refusal.value.zh


def test_what_a_newer_version_wrote_stays_in_a_runs_file(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    content = json.loads((run.path / "run.json").read_text())
    for part in (content, content["state"], content["settings"]):
        part["invented_later"] = {"a": [1.5, None]}
    (run.path / "run.json").write_text(json.dumps(content))
    run.update(status=Status.FAILED, message_zh="坏了")
    after = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert after["state"].pop("updated_at") > content["state"].pop("updated_at")
    assert after == content | {"state": content["state"] | {"status": "failed", "message_zh": "坏了"}}


def test_settings_of_a_newer_version_do_not_make_a_run_unreadable(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    content = json.loads((run.path / "run.json").read_text())
    content["settings"]["invented_later"] = 1
    content["state"]["invented_later"] = 1
    (run.path / "run.json").write_text(json.dumps(content))
    assert run.settings() == SETTINGS
    assert run.state().status is Status.STARTING


def test_a_run_whose_process_lives_is_running(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    run.update(status=Status.RUNNING, pid=os.getpid(), pid_started_at=start_time(os.getpid()))
    assert run.state().status is Status.RUNNING
    run.set_stop_request(True)
    assert run.state().status is Status.STOPPING


def test_a_reused_process_id_is_not_a_live_trainer(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    (run.path / "train.log").write_text("Loading\nKilled\n")
    run.update(status=Status.RUNNING, pid=os.getpid(), pid_started_at=1.0)
    state = run.state()
    assert state.status is Status.INTERRUPTED
    assert state.message_en.endswith("Last line of its log: Killed")


@pytest.mark.parametrize(
    ("seconds", "is_same"), [(0.0, True), (0.01, True), (-0.01, True), (0.1, False), (-0.1, False)]
)
def test_a_process_is_the_same_if_it_began_at_the_same_hundredth_of_a_second(seconds: float, is_same: bool) -> None:
    began = start_time(os.getpid())
    assert began is not None
    assert is_running(os.getpid(), began + seconds) is is_same


def test_a_run_that_was_never_started_reads_as_interrupted_after_a_while(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(SETTINGS, "my-run")
    later = time.time() + LAUNCH_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert run.state().status is Status.INTERRUPTED


def test_checkpoints_are_listed_by_step_and_half_written_ones_are_not(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    for step in (100, 20):
        add_checkpoint(run, step)
    add_checkpoint(run, 30, resumable=False)
    run.checkpoint_path(40).mkdir()
    (run.staging / "checkpoint-50").mkdir(parents=True)
    assert [info.step for info in run.checkpoints()] == [20, 30, 100]
    assert [info.step for info in run.resumable_checkpoints()] == [20, 100]
    info = run.checkpoints()[0]
    assert (info.run_name, info.loss, info.pre_seq_len, info.prefix_projection) == ("my-run", 1.5, 2, False)
    assert info.size_bytes > 0


def test_leftovers_of_a_killed_trainer_are_cleaned(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    (run.staging / "checkpoint-50").mkdir(parents=True)
    hidden_name(run.path / "checkpoint-5", DELETED).mkdir()
    hidden_name(run.path / "checkpoint-6", REPLACED).mkdir()
    old, young = (hidden_name(run.path / "run.json", PARTIAL) for _ in range(2))
    for file in (old, young):
        file.touch()
    os.utime(old, (0, 0))
    run.reserve_space()
    run.discard_leftovers()
    # The young one may be about to take its place; what a crash left half replaced is there again.
    assert sorted(item.name for item in run.path.iterdir()) == sorted([young.name, "checkpoint-6", "run.json"])


def test_a_checkpoint_can_be_deleted_once(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    add_checkpoint(run, 20)
    run.delete_checkpoint(20)
    assert run.checkpoints() == []
    with pytest.raises(RunError, match="no checkpoint of step 20; it has none"):
        run.delete_checkpoint(20)


def test_checkpoints_are_found_by_every_path_a_user_may_name(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    directory = add_checkpoint(run, 20)
    for place in (run.path, directory, directory / "prefix.safetensors"):
        assert [info.step for info in find_checkpoints(place)] == [20]
    with pytest.raises(RunError, match="a directory without a checkpoint"):
        find_checkpoints(store.root)
    with pytest.raises(RunError, match="nothing that can be read"):
        find_checkpoints(store.root / "nowhere")


def test_the_originals_checkpoint_tells_what_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "adgen-chatglm2-6b-pt-128-2e-2" / "checkpoint-3000"
    directory.mkdir(parents=True)
    torch.save({"transformer.prefix_encoder.embedding.weight": torch.zeros(2, 8)}, directory / "pytorch_model.bin")
    (directory / "config.json").write_text(json.dumps({"pre_seq_len": 128, "prefix_projection": False}))
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 3.4}, {"train_loss": 3.6}]}))
    (info,) = find_checkpoints(directory)
    assert (info.step, info.pre_seq_len, info.loss) == (3000, 128, 3.4)
    assert info.run_name == "adgen-chatglm2-6b-pt-128-2e-2"
    assert not info.can_resume


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"prefix.safetensors": ""}, "prefix"),
        ({"prefix.safetensors": "", "config.json": CONFIG_OF_MODEL}, "prefix"),
        ({"pytorch_model.bin": ""}, "prefix"),
        ({"pytorch_model.bin": "", "config.json": CONFIG_OF_PREFIX}, "prefix"),
        ({"pytorch_model.bin": "", "config.json": "{"}, "prefix"),
        ({"pytorch_model.bin": "", "config.json": CONFIG_OF_MODEL}, "model"),
        ({"model.safetensors": "", "config.json": CONFIG_OF_MODEL}, "model"),
        ({"model.safetensors": "", "finetuned.json": "{}"}, "model"),
        ({"model.safetensors.index.json": "{}", "config.json": CONFIG_OF_MODEL}, "model"),
        ({"config.json": "{}"}, None),
        ({"optimizer.pt": ""}, None),
    ],
)
def test_a_checkpoint_is_a_prefix_or_a_complete_model(tmp_path: Path, files: dict[str, str], kind: str | None) -> None:
    place = tmp_path / "checkpoint-7"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_text(content)
    assert checkpoint_kind(place) == kind
    assert [info.kind for info in checkpoints_in(tmp_path)] == ([kind] if kind else [])
    weights = [place / name for name in files if name.endswith((".bin", ".safetensors"))]
    for named in (tmp_path, place, *weights):
        if kind == "prefix":
            assert [info.step for info in find_checkpoints(named)] == [7]
        else:
            with pytest.raises(RunError, match="complete model" if kind else "without a checkpoint"):
                find_checkpoints(named)


def test_a_wrong_value_in_a_checkpoints_metadata_leaves_one_gap(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    metadata = {"step": "many", "loss": [], "created_at": None, "settings": 7, "base_model": "b", "pre_seq_len": 2}
    (add_checkpoint(run, 20) / "prefix.json").write_text(json.dumps(metadata))
    (add_checkpoint(run, 30) / "prefix.json").write_text("[1]")
    (add_checkpoint(run, 40) / "trainer_state.json").write_text('{"log_history": [7]}')
    first, second, _ = run.checkpoints()
    assert (first.step, first.loss, first.settings, first.base_model, first.pre_seq_len) == (20, None, {}, "b", 2)
    assert (second.step, second.run_name, second.pre_seq_len) == (30, "my-run", None)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_atomically(file, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_who_reads_while_a_file_is_replaced_reads_the_old_one_whole(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    file = run.path / "run.json"
    old = file.read_text(encoding="utf-8")
    with file.open(encoding="utf-8") as reader:
        first = reader.read(10)
        run.update(message_en="x" * 10_000)
        assert first + reader.read() == old
    write_atomically(file, old)
    assert file.read_text(encoding="utf-8") == old
    assert sorted(item.name for item in run.path.iterdir()) == ["run.json"]


def test_a_published_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    staged, target = tmp_path / "staged", tmp_path / "target"
    for directory, name in ((staged, "new"), (target, "old")):
        directory.mkdir()
        (directory / name).touch()
    publish_directory(staged, target)
    assert [item.name for item in target.iterdir()] == ["new"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["target"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file where the directory should be")
    with pytest.raises(RunError, match="cannot be written"):
        RunStore(tmp_path / "output").create(SETTINGS, "my-run")


def test_the_log_ends_with_its_last_lines(store: RunStore) -> None:
    run = store.create(SETTINGS, "my-run")
    assert run.log_tail() == ""
    run.log_file.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert run.log_tail(2) == "line 19998\nline 19999"
