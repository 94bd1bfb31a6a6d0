"""What a shell shows: plain whole lines in a pipe, one line that changes on a terminal, Chinese in columns."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from app.__main__ import main as serve
from training.cli import balance, chat, export, library, train
from training.cli.screen import Lines, in_columns
from training.runs.store import RunStore
from training.settings.samples import SAMPLE_DEV_FILE
from training.settings.train import TrainingSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")


def test_a_pipe_gets_every_line_whole_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = Lines(pipe := io.StringIO())
    lines.keep("[bold]:smile: " + "长" * 30)
    lines.change("1/2 " + "x" * 30)
    lines.change("2/2")
    lines.close()
    assert pipe.getvalue() == f"[bold]:smile: {'长' * 30}\n1/2 {'x' * 30}\n2/2\n"


def test_a_changing_line_is_cut_where_the_terminal_ends_and_one_that_stays_is_not() -> None:
    lines = Lines(terminal := Terminal())
    lines.change("损失" * 10)
    lines.keep("a" * 40)
    first, second = terminal.getvalue().split("\r\x1b[2K")
    assert first == "损失" * 4 + "损 …"  # half a character is none
    assert second == "a" * 40 + "\n"


def test_a_terminal_that_cannot_go_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = Lines(terminal := Terminal())
    lines.change("1/2")
    lines.change("2/2")
    assert terminal.getvalue() == "1/2\n2/2\n"


def test_a_chinese_character_takes_two_places_in_a_column() -> None:
    assert in_columns([["运行", "a"], ["run-1", "b"]]) == "运行   a\nrun-1  b"
    assert in_columns([["", "损失"], ["x", "1"], ["空"]], numbers=True) == "    损失\nx      1\n空"


def test_a_reader_who_leaves_early_hears_no_complaint(tmp_path: Path, repository: Path) -> None:
    RunStore(tmp_path / "output").create(TrainingSettings(), "first")
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "training.main", "--list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


@contextmanager
def gone_reader() -> Iterator[None]:
    """Standard output as a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as out, Path(os.devnull).open("w") as complaints:
        with redirect_stdout(out), redirect_stderr(complaints):
            yield
        out.flush()  # as Python does when it ends


@pytest.mark.parametrize("main", [balance.main, chat.main, export.main, library.main, train.main, serve])
def test_every_command_ends_quietly_whose_reader_has_gone(main: Callable[[list[str]], int]) -> None:
    with gone_reader():
        try:
            code: object = main(["--help"])
        except SystemExit as ended:  # argparse passes over what a long help could not be written to
            code = ended.code
    assert code == 0


def test_a_table_that_nobody_reads_is_no_failure() -> None:
    with gone_reader():
        assert balance.main([str(SAMPLE_DEV_FILE)]) == 0
