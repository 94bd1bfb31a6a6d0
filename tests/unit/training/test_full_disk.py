"""Whoever finds the disk full says so in a sentence, and leaves what was there as it was and nothing half done."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from past_runs import write_past_run
from shown_runs import library
from small_runs import step_event
from tiny_checkpoint import write_tiny_checkpoint
from writers import out_of_space_at_each_step

from app.chat.model_host import ModelOptions
from app.places import places_for
from app.training.service import DataChoice, TrainingService
from app.views.checkpoint_table import ORIGINAL_FORMAT
from app.web.downloads import prepare_download
from app.web.uploads import GRADIO_FOLDER
from chatglm2.errors import ChatGLMError
from training.comparison.place import ComparisonStore, Progress
from training.evaluation.answering import Answer
from training.evaluation.journal import Journal
from training.keep.questions import BaseAnswer, write_answers
from training.runs import process
from training.runs.export import FORMATS, ExportRequest, export
from training.runs.results import write_results
from training.runs.storage import HIDDEN_NAME, explaining_storage_errors
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings

WORDS = "很长的回答" * 400


def create(root: Path) -> None:
    RunStore(root).create(TrainingSettings(), "new")


def begin_anew(root: Path) -> None:
    RunStore(root).create(TrainingSettings(), "run", overwrite=True)


def launch(root: Path) -> None:
    run = Run(root / "run")
    process.resume(run, settings=run.settings(), begin=lambda run: os.getpid())


def change(root: Path) -> None:
    Run(root / "run").update(message_en=WORDS)


def append(root: Path) -> None:
    Run(root / "run").append(step_event(9))


def set_share(root: Path) -> None:
    Run(root / "run").set_share("chat-first")


def ask_to_stop(root: Path) -> None:
    Run(root / "run").set_stop_request(True)


def reserve(root: Path) -> None:
    Run(root / "run").reserve_space()


def keep_answers(root: Path) -> None:
    write_answers(root / "run", [BaseAnswer("q", WORDS)])


def begin_journal(root: Path) -> None:
    Journal(root / "answers.jsonl", "e", 1).begin(3)


def keep_answer(root: Path) -> None:
    Journal(root / "answers.jsonl", "e", 1).append(0, [Answer(WORDS, is_cut=False)])


def ask_for_comparison(root: Path) -> None:
    asked: Any = SimpleNamespace(model_dump_json=lambda indent: WORDS)
    place = ComparisonStore(root).create(asked)
    place.set_progress(Progress(message_en=WORDS))
    place.ask_to_stop()


def name_checkpoint(root: Path) -> None:
    with library(root)._changing_named() as known:
        known.append(WORDS)


def keep_data(root: Path) -> None:
    unasked: Any = None
    places = places_for(root, data=[root.parent])
    TrainingService(RunStore(root), unasked, root, unasked, places)._keep(DataChoice(str(root.parent / "rows.json")))


def note_results(root: Path) -> None:
    with explaining_storage_errors(root):
        write_results(root, "train", {"words": WORDS}, {root / "report.html": WORDS})


def export_as(kind: str) -> Callable[[Path], None]:
    def exporting(root: Path) -> None:
        model = root.parent / "model"
        source = model if kind == "glm" else root / "run"
        export(ExportRequest(str(source), kind, root.parent / "out" / kind, base_model=str(model)))

    return exporting


def export_original(root: Path) -> None:
    export_as("original")(root)


def export_peft(root: Path) -> None:
    export_as("peft")(root)


def export_glm(root: Path) -> None:
    export_as("glm")(root)


def download(kind: str, root: Path) -> None:
    os.environ[GRADIO_FOLDER] = str(root.parent / "page")
    prepare_download(Run(root / "run").checkpoints()[-1], kind, ModelOptions(str(root.parent / "model"))).discard()


def download_ours(root: Path) -> None:
    download("", root)


def download_original(root: Path) -> None:
    download(ORIGINAL_FORMAT, root)


WRITERS = (
    *(create, begin_anew, launch, change, append, set_share, ask_to_stop, reserve, keep_answers, begin_journal),
    *(keep_answer, ask_for_comparison, name_checkpoint, keep_data, note_results),
    *(export_original, export_peft, export_glm, download_ours, download_original),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    write_tiny_checkpoint(place / "model")
    write_past_run(place / "output", place / "model", "run", (4, 8))
    (place / "rows.json").write_text("row\n" * 5000, encoding="utf-8")
    (place / "page").mkdir()
    return place


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made")) / "output"


def require_sound(root: Path) -> None:
    """The run of before is there, and nothing hidden is left."""
    store = RunStore(root)
    assert list(store.broken()) == []
    assert [info.step for info in Run(root / "run").checkpoints()] == [4, 8]
    assert [item for item in root.parent.rglob("*") if HIDDEN_NAME.fullmatch(item.name)] == []
    assert not (root.parent / "out").exists() or list((root.parent / "out").iterdir()) == []
    assert list((root.parent / "page").iterdir()) == []


@pytest.mark.parametrize("write", WRITERS)
def test_who_finds_no_space_says_so_and_leaves_nothing_half_done(
    made: Path, root: Path, write: Callable[[Path], None]
) -> None:
    refused = 0
    for said in out_of_space_at_each_step(write, root):
        if said is not None:
            refused += 1
            assert "no space left" in said.en and "空间不足" in said.zh, said
            require_sound(root)
        shutil.rmtree(root.parent)
        shutil.copytree(made, root.parent)
    assert refused


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, whoever writes it: torch and safetensors write with code of their own."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


TOUCHING = (ask_to_stop, set_share, launch)  # they write next to nothing


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("write", [write for write in WRITERS if write not in TOUCHING])
def test_who_cannot_write_all_of_a_file_says_so_and_leaves_nothing_half_done(
    root: Path, write: Callable[[Path], None], size: int
) -> None:
    with files_end_at(size):
        try:
            write(root)
        except ChatGLMError as error:
            assert "written" in error.en and "写入" in error.zh
            require_sound(root)
        else:
            assert size > 0
    Run(root / "run").append(step_event(10))
    assert "step=10" in repr(Run(root / "run").events()[0][-1])


def test_every_format_is_tried() -> None:
    assert {f"export_{kind}" for kind in FORMATS} <= {write.__name__ for write in WRITERS}
