"""Processes that train together do what one process with all their rows would, and end together, whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import said_by, start_ranks, train_in_ranks
from safetensors.torch import load_file
from small_runs import write_general_examples
from tiny_checkpoint import tiny_settings, write_examples

from chatglm2.errors import RunError
from chatglm2.model import prefix
from training.cli.train import main
from training.data.batching import LengthGroupedSampler
from training.distributed import ranks as ranks_module
from training.distributed.ranks import Pulse, Ranks, join_ranks
from training.runs.events import StepEvent, step_history
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings, setting_fields
from training.worker.alone import train

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    """Of one process; two take half the batch each. Two or four steps are an epoch, without a rest."""
    directory = tmp_path_factory.mktemp("distributed")
    return tiny_settings(
        directory,
        train_file=str(write_examples(directory / "even.json", 32)),
        **{"max_steps": 5, "save_steps": 3, "per_device_train_batch_size": 8, "device": "cpu", "dtype": "float32"},
    )


def words_for(settings: TrainingSettings, place: Path, **changes: object) -> list[str]:
    """The command line that asks for ``settings``, with half of the batch in each process."""
    asked = replace(settings, per_device_train_batch_size=settings.per_device_train_batch_size // 2)
    values = asked.to_dict() | changes
    given = {
        item.name: values[item.name]
        for item in setting_fields()
        if values[item.name] != item.default or item.name == "pre_seq_len"
    }
    return [*(word for name, value in given.items() for word in (f"--{name}", str(value))), "--output_dir", str(place)]


def curve(run: Run) -> list[tuple[float, float, float]]:
    return [(event.loss, event.learning_rate, event.gradient_norm) for event in step_history(run.events()[0])]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def train_alone(store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(prefix, "PREFIX_DROPOUT", 0.0)
    run = store.create(settings, "alone")
    train(run)
    return run


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_accumulation_steps": 2}, {"gradient_accumulation_steps": 2, "keep": 0.75, "prefix_init": "text"}],
    ids=["plain", "accumulation", "kept to the base"],
)
def test_two_processes_train_the_prefix_that_one_with_their_rows_trains(
    tmp_path: Path, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    store = RunStore(tmp_path / "output")
    questions = str(write_general_examples(tmp_path / "questions.jsonl"))
    asked = replace(settings, keep_file=questions, keep_own=0, **changes)
    alone = train_alone(store, asked, monkeypatch)
    train_in_ranks(2, words_for(asked, store.root / "two"), tmp_path)
    two = store.get("two")
    assert two.state().status is Status.FINISHED
    for one, other in zip(curve(alone), curve(two), strict=True):
        assert other == pytest.approx(one, rel=2e-5)
    (expected,) = load_file(alone.checkpoint_path(5) / "prefix.safetensors").values()
    (found,) = load_file(two.checkpoint_path(5) / "prefix.safetensors").values()
    assert torch.allclose(found, expected, atol=1e-4)
    assert "5/5" in said_by(0, tmp_path) and said_by(1, tmp_path) == ""


@pytest.mark.parametrize("shared", [{}, {"pre_seq_len": None, "fsdp": "full_shard", "learning_rate": 1e-3}])
def test_processes_resume_where_they_were_interrupted(
    tmp_path: Path, settings: TrainingSettings, shared: dict[str, object]
) -> None:
    store = RunStore(tmp_path / "output")
    train_in_ranks(2, words_for(settings, store.root / "straight", **shared), tmp_path)
    straight, copy = store.get("straight"), Run(store.root / "copy")
    shutil.copytree(straight.path, copy.path)
    copy.delete_checkpoint(5)
    copy.update(status=Status.INTERRUPTED)
    train_in_ranks(2, ["--resume_from_checkpoint", str(copy.path)], tmp_path)
    assert curve(copy) == curve(straight)
    name = "model.safetensors" if shared else "prefix.safetensors"
    resumed = load_file(copy.checkpoint_path(5) / name)
    for key, tensor in load_file(straight.checkpoint_path(5) / name).items():
        assert torch.equal(tensor, resumed[key]), key


def test_processes_that_share_all_weights_train_what_one_process_trains(
    tmp_path: Path, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "output")
    asked = replace(settings, pre_seq_len=None, learning_rate=1e-3)
    alone = train_alone(store, asked, monkeypatch)
    train_in_ranks(2, words_for(asked, store.root / "two", fsdp="full_shard"), tmp_path)
    two = store.get("two")
    for one, other in zip(curve(alone), curve(two), strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    expected = load_file(alone.checkpoint_path(5) / "model.safetensors")
    found = load_file(two.checkpoint_path(5) / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-3), name


def test_torchrun_starts_a_training(tmp_path: Path, settings: TrainingSettings, repository: Path) -> None:
    place = tmp_path / "output" / "run"
    words = [*("--standalone", "--nproc_per_node", "2", "-m", "training.main"), *words_for(settings, place)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    assert "Finished: all 5 steps are done." in done.stdout
    assert "Finished" in (place / "train.log").read_text(encoding="utf-8")


def test_what_fails_in_one_process_ends_all_and_is_said_once(tmp_path: Path, settings: TrainingSettings) -> None:
    place = tmp_path / "output" / "run"
    processes = start_ranks(2, words_for(settings, place, max_steps=1000), tmp_path, failing_rank=1)
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [1, 1]
    state = Run(place).state()
    assert (state.status, state.message_en) == (Status.FAILED, "The third step failed here.")
    assert said_by(0, tmp_path).count("The third step failed here.") == 1


def test_a_killed_process_ends_the_others(tmp_path: Path, settings: TrainingSettings) -> None:
    run = Run(tmp_path / "output" / "run")
    processes = start_ranks(2, words_for(settings, run.path, max_steps=100_000), tmp_path)
    wait_for(lambda: any(isinstance(event, StepEvent) for event in run.events()[0]))
    processes[1].kill()
    processes[0].join(PATIENCE_SECONDS)
    assert processes[0].exitcode == 1
    assert run.state().status is Status.FAILED
    assert "One of the 2 processes is gone without a word" in run.state().message_en


def test_a_signal_stops_all_after_the_same_step(tmp_path: Path, settings: TrainingSettings) -> None:
    run = Run(tmp_path / "output" / "run")
    processes = start_ranks(2, words_for(settings, run.path, max_steps=100_000, save_steps=50_000), tmp_path)
    wait_for(lambda: any(isinstance(event, StepEvent) for event in run.events()[0]))
    for process in processes:  # as a terminal sends Ctrl-C
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    assert run.state().status is Status.STOPPED
    (checkpoint,) = run.checkpoints()
    assert checkpoint.can_resume and checkpoint.step == step_history(run.events()[0])[-1].step


def test_a_mistake_is_said_once(tmp_path: Path, settings: TrainingSettings) -> None:
    words = words_for(settings, tmp_path / "output" / "run", train_file=str(tmp_path / "missing.json"))
    processes = start_ranks(2, words, tmp_path)
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [2, 2]
    assert "there is no file" in said_by(0, tmp_path)
    assert said_by(1, tmp_path) == ""
    assert not (tmp_path / "output").exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(ranks_module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ranks_module.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RunError, match=r"4 processes .* this machine has 2\. Use --nproc_per_node 2"):
        join_ranks("auto")


def test_processes_take_turns_at_the_batches_of_one_large_process() -> None:
    lengths = [(17 * index) % 23 for index in range(48)]
    order = list(LengthGroupedSampler(lengths, batch_size=8, seed=3))
    batches = [order[start : start + 4] for start in range(0, 48, 4)]
    together = [sorted(batches[index] + batches[index + 1]) for index in range(0, 12, 2)]
    assert together == [sorted(order[start : start + 8]) for start in range(0, 48, 8)]


@pytest.mark.parametrize("flag", ["--fsdp", "--deepspeed"])
def test_a_prefix_is_not_shared(flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert main([flag, "full_shard", "--pre_seq_len", "8"]) == 2
    assert "share the weights of full fine-tuning" in capsys.readouterr().err


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "LOST_SECONDS", 0.4)
    monkeypatch.setattr(ranks_module, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(ranks_module, "START_PATIENCE", timedelta(seconds=0.2))


def test_a_process_whose_machine_is_gone_is_missed_and_named(impatient: None) -> None:
    """It closes no connection, so that nothing but its silence tells."""
    store, told, heard = dist.HashStore(), threading.Event(), []
    gone = Pulse(store, 1, 2)

    def hear(words: dict[str, Any]) -> None:
        heard.append(words)
        told.set()

    with Ranks(0, 2, store=store).watching(hear):
        for _ in range(6):
            gone.beat()
            assert not told.wait(0.1), "it lives"
        assert told.wait(30)
    assert heard[0]["en"].startswith("Process 1 of the 2") and "第 1 个" in heard[0]["zh"]
    assert Ranks(1, 2, store=store).failure() == heard[0]


def test_a_process_that_is_done_is_not_missed(impatient: None) -> None:
    store, told = dist.HashStore(), threading.Event()
    with Ranks(0, 2, store=store).watching(lambda words: told.set()):
        with Ranks(1, 2, store=store).watching(lambda words: told.set()):
            pass
        assert not told.wait(1.0)


def test_processes_do_not_wait_for_ever_for_a_first_one_that_does_not_begin(impatient: None) -> None:
    with pytest.raises(RunError, match="has not begun the run"):
        Ranks(1, 2, store=dist.HashStore()).share_first(None)
