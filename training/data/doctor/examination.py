"""A look at training data, and at what it is validated on: everything that the checks find, file by file.

Knows which checks belong to which file; does not know how one looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.data.columns import find_columns
from training.data.doctor import checks
from training.data.doctor.findings import Diagnosis, Finding
from training.data.doctor.records import Records, read_records
from training.data.encoding import ExampleEncoder
from training.data.files import read_table
from training.settings.train import TrainingSettings

if TYPE_CHECKING:
    from chatglm2.text.tokenizer import ChatGLMTokenizer


def examine(settings: TrainingSettings, tokenizer: ChatGLMTokenizer) -> list[Diagnosis]:
    """What is wrong with ``train_file``, and with ``validation_file`` where there is one.

    Raises:
        DataError: for a file in which nothing can be read.
    """
    encoder = ExampleEncoder(tokenizer, settings)
    training = records_of(settings.train_file, settings)
    found = [_diagnose(training, encoder)]
    if settings.validation_file:
        validation = records_of(settings.validation_file, settings)
        found.append(_diagnose(validation, encoder, training))
    return found


def records_of(file: str | Path, settings: TrainingSettings) -> Records:
    """A file's rows under the columns that the settings name, or that people use.

    Raises:
        DataError: for a file in which nothing can be read.
    """
    table = read_table(file, skip_bad_rows=True)
    return read_records(table, find_columns(table, settings))


def _diagnose(records: Records, encoder: ExampleEncoder, training: Records | None = None) -> Diagnosis:
    table = records.table
    long, limits = checks.find_long(records, encoder)
    found: list[Finding | None] = [
        checks.find_broken(records),
        checks.find_empty(records),
        checks.find_duplicates(records),
        None if training is None else checks.find_leaks(records, training),
        *long,
        checks.find_odd(records),
    ]
    return Diagnosis(
        path=table.path,
        read_as=table.read_as,
        rows=len(records.usable) + len(records.empty) + len(table.bad_rows.numbers),
        findings=tuple(finding for finding in found if finding is not None),
        limits=limits,
    )
