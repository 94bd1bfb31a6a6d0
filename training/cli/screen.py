"""Lines and columns for a shell. A terminal's last line may change in place; a pipe gets each line, plain and whole.

Knows streams and the widths of characters. Does not know what is told.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TextIO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

Main = Callable[[list[str] | None], int]


def ends_with_its_reader(main: Main) -> Callable[..., int]:
    """A command's ``main`` that ends without complaint where whoever reads it has gone, as behind ``| head``."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            try:
                return main(arguments)
            finally:
                print(end="", flush=True)  # what is still held back would complain when Python ends
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            return 0

    return run


class Lines:
    """Writes to a stream that somebody watches, or that goes to a file."""

    def __init__(self, stream: TextIO) -> None:
        self._console = _Console(file=stream, force_terminal=stream.isatty())
        self._is_open = False  # the cursor stands behind a line that may change

    @property
    def change_in_place(self) -> bool:
        """Whether a line that changes takes the place of the one before."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def keep(self, text: str) -> None:
        """A line that stays; it takes the place of one that may change."""
        self._clear()
        self._console.print(Text(text), soft_wrap=True)

    def change(self, text: str) -> None:
        """A line that the next one replaces, cut where the terminal ends: only so can it be cleared again."""
        if not self.change_in_place:
            self.keep(text)
            return
        self._clear()
        self._console.print(Text(text), end="", no_wrap=True, overflow="ellipsis")
        self._is_open = True

    def close(self) -> None:
        """Let the line that may change stay as it is."""
        if self._is_open:
            self._console.print()
            self._is_open = False

    def _clear(self) -> None:
        if self._is_open:
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            self._is_open = False


def in_columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Rows as lines of aligned cells; with ``numbers``, all but the first column stand to the right."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for place in range(max((len(row) for row in rows), default=0)):
        table.add_column(justify="right" if numbers and place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = _Console(file=StringIO(), width=_UNLIMITED)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


_UNLIMITED = 10_000


class _Console(Console):
    """rich's console, which takes what it is given as it is."""

    def __init__(self, file: TextIO, force_terminal: bool = False, width: int | None = None) -> None:
        super().__init__(
            file=file, force_terminal=force_terminal, width=width, markup=False, emoji=False, highlight=False
        )

    def on_broken_pipe(self) -> None:
        """Whoever read has gone; what that means is for the caller to say. rich would end the program."""
        raise
