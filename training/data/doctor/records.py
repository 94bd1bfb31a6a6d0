"""A table's rows as the doctor sees them: what each asks, what it answers, and which row of the table it is.

Knows which rows training would refuse or leave out; those stay out of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.data.columns import ColumnMapping
from training.data.encoding import Example, examine_rows
from training.data.files import Table


@dataclass(frozen=True)
class Records:
    """A table, which columns of it are used, its usable rows and those that are empty, both by their place in it."""

    table: Table
    columns: ColumnMapping
    usable: tuple[tuple[int, Example], ...]
    empty: tuple[tuple[int, Example], ...]

    def lines_of(self, indices: list[int]) -> tuple[int, ...]:
        """The lines, or numbers, of rows of the table; a conversation gives several rows to a line."""
        return tuple(dict.fromkeys(self.table.lines[index] for index in indices))


Identity = tuple[str, str, tuple[tuple[str, str], ...]]


def read_records(table: Table, columns: ColumnMapping) -> Records:
    """All rows that can be read; those that cannot are in the table's ``bad_rows``, which has to skip them."""
    usable: list[tuple[int, Example]] = []
    empty: list[tuple[int, Example]] = []
    for index, example in examine_rows(table, columns):
        whole = bool(example.prompt.strip() and example.response.strip())
        (usable if whole else empty).append((index, example))
    return Records(table, columns, tuple(usable), tuple(empty))


def question_of(example: Example) -> Identity:
    """What tells two questions apart; blanks around them do not."""
    return (example.prompt.strip(), "", example.history)


def identity_of(example: Example) -> Identity:
    """What tells two rows apart."""
    return (example.prompt.strip(), example.response.strip(), example.history)
