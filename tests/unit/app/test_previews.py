"""Files are looked at in processes of their own, which end when they take too much, and are there again afterwards."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tiny_checkpoint import write_examples, write_tiny_checkpoint

from app.training.previews import GIB, PROCESSES, Limits, Previews
from chatglm2 import load_tokenizer
from chatglm2.errors import ChatGLMError, DataError
from training.data.files import MOST_COLUMNS, read_table
from training.data.summary import describe_file
from training.settings.train import TrainingSettings


@pytest.fixture(scope="module")
def previews() -> Iterator[Previews]:
    previews = Previews(Limits(memory_bytes=GIB))
    yield previews
    previews.close()
    assert not children()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "preview_process" in " ".join(child.cmdline())]


def test_a_report_is_that_of_the_function(previews: Previews, tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "model")
    settings = TrainingSettings(train_file=str(write_examples(tmp_path / "rows.json")))
    there = previews.describe(settings, str(model / "tokenizer.model"))
    assert there == describe_file(settings.train_file, settings, load_tokenizer(model))
    assert previews.columns(settings.train_file) == ("content", "summary")


def test_a_mistake_in_the_data_is_said_as_ever(previews: Previews, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,a\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="the column 'a' appears twice") as caught:
        previews.columns(str(tmp_path / "bad.csv"))
    assert "出现了两次" in caught.value.zh


def test_a_file_that_takes_too_much_memory_is_refused_and_the_next_one_is_read(
    previews: Previews, tmp_path: Path
) -> None:
    large, small = tmp_path / "large.json", write_examples(tmp_path / "small.json")
    with large.open("wb") as file:
        file.truncate(2 * GIB)  # takes no room on the disk
    with pytest.raises(DataError, match="memory"):
        previews.columns(str(large))
    assert previews.columns(str(small)) == ("content", "summary")


def test_a_file_that_takes_too_long_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    previews = Previews(Limits(seconds=0.2))
    try:
        slow, small = tmp_path / "slow.json", write_examples(tmp_path / "small.json")
        slow.write_text("{\n" * 10**6, encoding="utf-8")
        with pytest.raises(DataError, match=r"0\.2 seconds"):
            previews.columns(str(slow))
        assert previews.columns(str(small)) == ("content", "summary")
    finally:
        previews.close()


def test_more_askers_than_processes_wait_or_hear_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    previews = Previews()
    taken = [previews._idle.get() for _ in range(PROCESSES)]
    monkeypatch.setattr("app.training.previews.WAIT_SECONDS", 0.05)
    with pytest.raises(ChatGLMError, match="Other people's files"):
        previews.columns("any.json")
    monkeypatch.setattr("app.training.previews.WAIT_SECONDS", 60)
    heard: list[object] = []
    thread = threading.Thread(
        target=lambda: heard.append(previews.columns(str(write_examples(tmp_path / "rows.json"))))
    )
    thread.start()
    for process in taken:
        previews._idle.put(process)
    thread.join(60)
    previews.close()
    assert heard == [("content", "summary")]


def test_looking_at_files_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, app.training.preview_process, chatglm2.text.tokenizer; sys.exit('torch' in sys.modules or"
        " 'gradio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pipe_is_no_data_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="not a regular file"):
        read_table(tmp_path / "pipe.json")


def test_a_file_of_thousands_of_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wide.json"
    file.write_text(json.dumps({str(number): "x" for number in range(MOST_COLUMNS + 1)}), encoding="utf-8")
    with pytest.raises(DataError, match="1,001 columns"):
        read_table(file)
