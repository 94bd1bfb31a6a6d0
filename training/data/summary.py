"""What a data file looks like before anybody trains on it: rows, columns, token lengths, what would be shortened.

Knows how to look at a file; does not train on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.bad_rows import BadRows
from training.data.columns import ColumnMapping, find_columns, find_general_columns
from training.data.encoding import ExampleEncoder, read_examples
from training.data.files import read_table
from training.settings.train import TrainingSettings

if TYPE_CHECKING:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

MEASURED_ROWS = 2000
HISTOGRAM_BINS = 24


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each bin; bin i covers ``edges[i] <= value < edges[i + 1]``."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LengthReport:
    """Token lengths of ``measured`` examples, spread evenly over the file.

    ``over_limit`` of them are longer than ``limit`` and would be shortened.
    """

    measured: int
    longest: int
    mean: float
    limit: int
    over_limit: int
    histogram: Histogram


@dataclass(frozen=True)
class DatasetReport:
    """A data file at a glance.

    ``read_as`` names format and encoding in both languages. ``dropped`` rows have an empty prompt or answer;
    ``bad_rows`` cannot be used.
    """

    path: Path
    read_as: tuple[str, str]
    rows: int
    dropped: int
    bad_rows: BadRows
    all_columns: tuple[str, ...]
    columns: ColumnMapping
    source_tokens: LengthReport
    target_tokens: LengthReport


def describe_file(path: str | Path, settings: TrainingSettings, tokenizer: ChatGLMTokenizer) -> DatasetReport:
    """Read a data file and measure it; rows that training would refuse are counted in the report.

    Raises:
        DataError: for a file in which nothing can be used.
    """
    table = read_table(path, skip_bad_rows=True)
    columns = find_columns(table, settings)
    examples, dropped = read_examples(table, columns)
    encoder = ExampleEncoder(tokenizer, settings)
    stride = max(1, len(examples) // MEASURED_ROWS)
    lengths = [encoder.count_tokens(example) for example in examples[::stride]]
    return DatasetReport(
        path=table.path,
        read_as=table.read_as,
        rows=len(examples) + dropped + len(table.bad_rows.numbers),
        dropped=dropped,
        bad_rows=table.bad_rows,
        all_columns=table.columns,
        columns=columns,
        source_tokens=_summarise([source for source, _ in lengths], settings.max_source_length),
        target_tokens=_summarise([target for _, target in lengths], settings.max_target_length),
    )


def require_readable(settings: TrainingSettings) -> None:
    """Look at the files beside the training data before anything starts.

    Raises:
        DataError: for one that would stop the run.
    """
    files = (
        (settings.mix_file, find_general_columns),
        (settings.validation_file if settings.eval_steps else None, find_columns),
    )
    for file, columns_of in files:
        if file:
            table = read_table(file, skip_bad_rows=settings.skip_bad_rows)
            read_examples(table, columns_of(table, settings))


def _summarise(lengths: Sequence[int], limit: int) -> LengthReport:
    return LengthReport(
        measured=len(lengths),
        longest=max(lengths),
        mean=sum(lengths) / len(lengths),
        limit=limit,
        over_limit=sum(length > limit for length in lengths),
        histogram=_histogram(lengths),
    )


def _histogram(values: Sequence[int]) -> Histogram:
    width = max(values) // HISTOGRAM_BINS + 1
    counts = [0] * (max(values) // width + 1)
    for value in values:
        counts[value // width] += 1
    return Histogram(tuple(index * width for index in range(len(counts) + 1)), tuple(counts))
