"""A pipe where a file or a folder should be: whoever opened it would wait for its other end, and nobody does."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from past_runs import write_past_run
from shown_runs import EN, library, show_everything
from tiny_checkpoint import write_tiny_checkpoint

from app.chat.sources import NAMED_FILE
from app.views.evaluation import progress_html
from chatglm2 import load_model, load_prefix
from chatglm2.checkpoints.loading import read_config
from chatglm2.errors import ChatGLMError
from training.cli.train import main
from training.comparison.place import LOG_FILE as COMPARISON_LOG
from training.comparison.place import PROGRESS_FILE, REQUEST_FILE, RESULT_FILE, ComparisonStore
from training.data.files import read_table
from training.keep.questions import read_answers
from training.loop.retention import _read_answers
from training.runs import process
from training.runs.export import ExportRequest, export
from training.runs.launch import spawn_module
from training.runs.layout import RECORDS
from training.runs.liveness import LEASE_FILE
from training.runs.results import write_results
from training.runs.store import LOG_FILE, RUN_FILE, Run, RunStore

PATIENCE_SECONDS = 120
"""Far more than anything here takes: it only ends a test that would wait for ever."""


class WaitedError(BaseException):
    """Nothing takes it for an error of its own."""


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise WaitedError("it waits for the other end of a pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def output(tmp_path: Path, model: Path) -> Path:
    for name in ("good", "bad"):
        write_past_run(tmp_path / "output", model, name, (2, 4))
    return tmp_path / "output"


def put_pipe(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(place)


def in_a_sentence(ask: Callable[[], Any]) -> Any:
    """What is asked for, or None where it is refused in both languages."""
    try:
        return ask()
    except ChatGLMError as error:
        assert error.en.strip() and error.zh.strip()
        return None


IN_A_CHECKPOINT = (
    *("prefix.safetensors", "prefix.json", "pytorch_model.bin", "config.json", "trainer_state.json", "finetuned.json"),
    *("optimizer.pt", "scheduler.pt", "strength.json", "pytorch_model.bin.index.json", "model.safetensors"),
)
IN_A_RUN = (*RECORDS, LEASE_FILE, "checkpoint-4", "replaced", "set-aside-1", ".staging", *IN_A_CHECKPOINT)


@pytest.mark.parametrize("name", [*IN_A_RUN, *(f"checkpoint-4/{name}" for name in IN_A_CHECKPOINT)])
def test_whatever_of_a_run_is_a_pipe_it_is_shown_deleted_or_replaced(
    output: Path, model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = output / "bad" / name
    put_pipe(place)
    show_everything(output)
    assert main(["--list", "--output_dir", str(output / "good")]) == 0
    store, run = RunStore(output), Run(output / "bad")
    for ask in (
        run.state,
        run.final_checkpoint,
        run.log_tail,
        lambda: process.request_stop(run),
        lambda: export(ExportRequest(str(run.path), "original", output.parent / "exported", str(model))),
        lambda: load_prefix(run.checkpoint_path(4), read_config(model)),
        lambda: library(output).delete(str(run.checkpoint_path(4))),
        lambda: store.create(run.settings(), "bad", overwrite=True),
    ):
        in_a_sentence(ask)
    assert read_answers(run.path) is None
    assert _read_answers(run.path / "retention.json", []) is None


def test_a_trainer_is_not_started_that_would_wait_to_write_its_log(output: Path) -> None:
    put_pipe(output / "bad" / LOG_FILE)
    with pytest.raises(ChatGLMError, match=LOG_FILE):
        spawn_module(("training.main", "--help"), output / "bad" / LOG_FILE, "bad")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"])
def test_a_models_file_that_is_a_pipe_is_named(model: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    put_pipe(copy / name)
    in_a_sentence(lambda: load_model(copy))
    in_a_sentence(lambda: export(ExportRequest(str(copy), "glm", tmp_path / "exported")))


@pytest.mark.parametrize("name", [REQUEST_FILE, PROGRESS_FILE, RESULT_FILE, COMPARISON_LOG, LEASE_FILE, "stop"])
def test_whatever_of_an_evaluation_is_a_pipe_it_is_shown(output: Path, name: str) -> None:
    unasked: Any = SimpleNamespace(model_dump_json=lambda indent: "{}")
    store = ComparisonStore(output)
    place = store.create(unasked)
    put_pipe(place.path / name)
    assert store.list()
    store.active()
    progress_html(SimpleNamespace(name=place.name, progress=place.progress(), result=place.result()), EN)  # type: ignore[arg-type]
    in_a_sentence(place.request)
    assert all(file.is_file() for file in place.result_files())
    in_a_sentence(lambda: place.ask_to_stop(False))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt"])
def test_a_data_file_that_is_a_pipe_is_refused(tmp_path: Path, suffix: str) -> None:
    put_pipe(tmp_path / f"rows{suffix}")
    with pytest.raises(ChatGLMError):
        read_table(str(tmp_path / f"rows{suffix}"))


def test_the_list_of_named_paths_and_the_gathered_results_are_replaced(output: Path) -> None:
    for name in (NAMED_FILE, "all_results.json", f"bad/{RUN_FILE}"):
        put_pipe(output / name)
    assert library(output).sources()
    library(output).delete(str(output / "bad"))
    write_results(output, "train", {"loss": 1.0})
    assert (output / "all_results.json").is_file()
