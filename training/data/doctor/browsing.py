"""Rows to page through and search, and one row as the model sees it in training, with the part that it learns.

Knows how rows are found and rendered; does not know what they look like on a page.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.data.doctor.findings import Words
from training.data.doctor.records import Records
from training.data.encoding import Example, ExampleEncoder

if TYPE_CHECKING:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

ROWS_A_PAGE = 10
CELL_CHARACTERS = 160
REST_CHARACTERS = 2000
LAST_SPECIAL_PIECE = 2  # the vocabulary begins with <unk>, <s> and </s>


@dataclass(frozen=True)
class ShownRow:
    """A row in a list: its place in the table, its line, and the beginning of its texts."""

    index: int
    line: int
    prompt: str
    response: str


@dataclass(frozen=True)
class RowPage:
    """A page of the rows that were found; pages are counted from 0."""

    number: int
    pages: int
    found: int
    rows: tuple[ShownRow, ...]


@dataclass(frozen=True)
class Piece:
    """Text of a row as the model sees it, and whether it learns to say it."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class RenderedRow:
    """A row in training.

    Attributes:
        place: where it is.
        pieces: the text, in order.
        rest: the beginning of what the limit cuts from the answer.
        cut_tokens: what the limits take from prompt and from answer.
    """

    place: Words
    pieces: tuple[Piece, ...]
    rest: str
    cut_tokens: tuple[int, int]


def find_rows(records: Records, query: str, number: int) -> RowPage:
    """The page of rows in which ``query`` occurs, or whose line it is; an empty one finds all."""
    wanted = query.strip().casefold()
    rows = sorted([*records.usable, *records.empty])
    found = [(index, row) for index, row in rows if _matches(row, records.table.lines[index], wanted)]
    pages = max(1, -(-len(found) // ROWS_A_PAGE))
    number = min(max(number, 0), pages - 1)
    shown = found[number * ROWS_A_PAGE : (number + 1) * ROWS_A_PAGE]
    return RowPage(
        number,
        pages,
        len(found),
        tuple(
            ShownRow(index, records.table.lines[index], _shortened(row.prompt), _shortened(row.response))
            for index, row in shown
        ),
    )


def render_row(records: Records, encoder: ExampleEncoder, index: int) -> RenderedRow | None:
    """The row at a place of the table, or None where there is none that is read."""
    example = next((row for place, row in (*records.usable, *records.empty) if place == index), None)
    if example is None:
        return None
    encoded, tokenizer = encoder.encode(example), encoder.tokenizer
    labelled = zip(encoded.input_ids, encoded.labels, strict=True)
    pieces = tuple(
        Piece(_spelt(tokenizer, [token for token, _ in group]), learnt)
        for learnt, group in itertools.groupby(labelled, lambda pair: pair[1] != encoder.masked_label)
    )
    source, target = encoder.count_tokens(example)
    rest = tokenizer.encode_text(example.response)[encoder.max_target_length :]
    cut = (max(0, source - encoder.max_source_length), max(0, target - encoder.max_target_length))
    return RenderedRow(records.table.place(index), pieces, tokenizer.decode_ids(rest)[:REST_CHARACTERS], cut)


def _spelt(tokenizer: ChatGLMTokenizer, ids: list[int]) -> str:
    """Text of ids with the names of special tokens, which stand for no text."""
    parts = []
    for is_text, group in itertools.groupby(ids, lambda token: LAST_SPECIAL_PIECE < token < tokenizer.num_pieces):
        tokens = list(group)
        parts.append(tokenizer.decode_ids(tokens) if is_text else "".join(tokenizer.convert_ids_to_tokens(tokens)))
    return "".join(parts)


def _matches(row: Example, line: int, wanted: str) -> bool:
    if not wanted or wanted == str(line):
        return True
    texts = (row.prompt, row.response, *itertools.chain.from_iterable(row.history))
    return any(wanted in text.casefold() for text in texts)


def _shortened(text: str) -> str:
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"
