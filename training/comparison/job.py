"""A comparison from its request to its files: load once, answer everything in shared batches, score, write.

Tells a `Watcher` how far it is. Answers go to files of their own as they come, so that what was cut off goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from chatglm2 import ChatGLMTokenizer, load_prefix, load_tokenizer
from chatglm2.checkpoints.hub import resolve_model_directory
from chatglm2.checkpoints.loading import read_config
from chatglm2.errors import DeviceMemoryError
from training.comparison.answering import Answering, Steps, count_steps
from training.comparison.place import CSV_FILE, REPORT_FILE, RESULT_FILE
from training.comparison.report import comparison_page
from training.comparison.request import ComparisonRequest, recognise_choices
from training.comparison.result import (
    Answered,
    ComparedRow,
    Comparison,
    Contestant,
    GeneralRow,
    Kept,
    as_csv,
    on_edge,
)
from training.comparison.scores import keep_scores
from training.data.columns import find_columns, find_prompt_column
from training.data.encoding import Example, find_general_prompts, read_examples
from training.data.files import read_table
from training.data.shapes import KNOWN_COLUMNS
from training.evaluation.answering import ASKING
from training.evaluation.job import STYLESHEET, Watcher, out_of_memory, predictions
from training.evaluation.metrics import mean_scores
from training.evaluation.scoring import ScoredRow, score_row
from training.evaluation.strengths import likeness
from training.plan.base_model import load_base, require_device
from training.probes.attributes import Pair, read_attributes
from training.probes.choices import ChoiceQuestion, read_choices
from training.probes.findings import Bias, Choices
from training.probes.letters import letter_ids
from training.runs.checkpoints import read_checkpoint
from training.runs.storage import explaining_storage_errors, write_together
from training.settings.train import TrainingSettings

ROWS_JOURNAL, GENERAL_JOURNAL, PAIRS_JOURNAL = "rows.partial.jsonl", "general.partial.jsonl", "pairs.partial.jsonl"
# More general questions tell no more, and take longer than the task.
MOST_QUESTIONS = 200


@dataclass(frozen=True)
class _Asked:
    """What a request's files hold; empty where nothing of the kind is asked."""

    rows: list[Example]
    general: list[Example]
    choices: list[ChoiceQuestion]
    pairs: list[Pair]

    def steps(self, contenders: int) -> int:
        """How much there is to do."""
        return count_steps(len(self.rows), len(self.general), len(self.choices), self.pairs, contenders)


@dataclass(frozen=True)
class _Found:
    """What everybody said and scored."""

    rows: list[ScoredRow]
    general: list[GeneralRow]
    divergences: list[float]
    choices: Choices | None
    bias: Bias | None


def run_comparison(request: ComparisonRequest, directory: Path, watcher: Watcher, language: str = "en") -> Comparison:
    """Compare as ``request`` asks, and write the results into ``directory``; the report is in ``language``.

    Raises:
        ChatGLMError: for a model, prefix or file that cannot be used, or a disk that cannot be written.
    """
    settings, request = request.settings(), recognise_choices(request)
    with explaining_storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    asked = _read(request, settings)
    place = resolve_model_directory(settings.model_name_or_path, hub=settings.hub)
    config = read_config(place)
    prefixes = (None, *(load_prefix(checkpoint, config) for checkpoint in request.checkpoints))
    tokenizer = load_tokenizer(settings.model_name_or_path, hub=settings.hub)
    if asked.choices:
        letter_ids(tokenizer)  # refuses a vocabulary without them before weights are loaded
    require_device(settings)
    watcher.say(f"Loading {settings.model_name_or_path}", f"正在加载 {settings.model_name_or_path}")
    try:
        model = load_base(settings)
        answering = Answering(model, tokenizer, prefixes, place, Steps(watcher, asked.steps(len(prefixes))))
        started = time.monotonic()
        found = _find(answering, asked, request, settings, directory)
    except (torch.OutOfMemoryError, DeviceMemoryError) as error:
        raise out_of_memory(settings) from error
    comparison = Comparison(
        model=settings.model_name_or_path,
        file=request.file,
        general_file=request.general,
        finished_at=datetime.now().isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        contestants=_contestants(request, found),
        rows=tuple(map(_compared, found.rows)),
        general=tuple(found.general),
        choices=found.choices,
        bias=found.bias,
    )
    _write(comparison, found.rows, directory, tokenizer, language)
    keep_scores(comparison)
    return comparison


def _read(request: ComparisonRequest, settings: TrainingSettings) -> _Asked:
    skip = settings.skip_bad_rows
    return _Asked(
        rows=read_rows(Path(request.file), settings) if request.file else [],
        general=read_general(Path(request.general), settings) if request.general else [],
        choices=read_choices(Path(request.choices), skip_bad_rows=skip) if request.choices else [],
        pairs=list(read_attributes(Path(request.bias)).pairs()) if request.bias else [],
    )


def _find(
    answering: Answering, asked: _Asked, request: ComparisonRequest, settings: TrainingSettings, directory: Path
) -> _Found:
    asking = replace(settings, **ASKING)
    if not asked.rows:  # whose journal tells where they begin
        answering.steps.done(0)
    said = answering.answers(asked.rows, settings, directory / ROWS_JOURNAL) if asked.rows else []
    rows = [score_row(answering.tokenizer, asked.rows, settings, index, answers) for index, answers in enumerate(said)]
    general = answering.answers(asked.general, asking, directory / GENERAL_JOURNAL) if asked.general else []
    questions = [
        GeneralRow(question=row.prompt, expected=row.response, answers=tuple(answer.text for answer in answers))
        for row, answers in zip(asked.general, general, strict=True)
    ]
    return _Found(
        rows=rows,
        general=questions,
        divergences=answering.divergences(asked.general, general, asking) if general else [],
        choices=answering.choices(asked.choices, str(request.choices)) if asked.choices else None,
        bias=answering.bias(asked.pairs, asking, directory / PAIRS_JOURNAL, str(request.bias)) if asked.pairs else None,
    )


def read_rows(file: Path, settings: TrainingSettings) -> list[Example]:
    """The rows of the task, at most as many as the settings say; errors as in `read_examples`."""
    table = read_table(file, skip_bad_rows=settings.skip_bad_rows)
    return read_examples(table, find_columns(table, settings), settings.max_predict_samples)[0]


def read_general(file: Path, settings: TrainingSettings) -> list[Example]:
    """General questions, each with the file's own answer, or an empty one where it has none.

    Raises:
        DataError: for a file without questions.
    """
    table = read_table(file, skip_bad_rows=settings.skip_bad_rows)
    find_general_prompts(table, settings)  # refuses what holds no question
    column = find_prompt_column(table, settings)
    own = [settings.response_column, *(response for prompt, response in KNOWN_COLUMNS if prompt == column)]
    response = next((name for name in own if name in table.columns), None)
    examples = []
    for row in table.rows:
        question, expected = row.get(column), row.get(response) if response else None
        if isinstance(question, str) and question.strip():
            examples.append(Example(question, "" if expected is None else str(expected).strip()))
    return examples[:MOST_QUESTIONS]


def _contestants(request: ComparisonRequest, found: _Found) -> tuple[Contestant, ...]:
    contestants = [
        Contestant(
            name="" if checkpoint is None else _name(checkpoint),
            checkpoint=checkpoint,
            scores=mean_scores([row.answers[place].scores for row in found.rows]).to_dict(),
            kept=_kept(found.general, place, found.divergences[place]) if found.general else None,
        )
        for place, checkpoint in enumerate((None, *request.checkpoints))
    ]
    edge = on_edge([(item.task, item.kept.likeness if item.kept else 0.0) for item in contestants])
    return tuple(item.model_copy(update={"on_edge": best}) for item, best in zip(contestants, edge, strict=True))


def _name(checkpoint: str) -> str:
    info = read_checkpoint(Path(checkpoint))
    return f"{info.run_name} / {info.path.name}"


def _kept(questions: Sequence[GeneralRow], place: int, divergence: float) -> Kept:
    likenesses = [likeness(row.answers[place], row.answers[0]) for row in questions]
    return Kept(
        likeness=sum(likenesses) / len(likenesses),
        unchanged=sum(row.answers[place] == row.answers[0] for row in questions),
        right=sum(bool(row.expected) and row.answers[place].strip() == row.expected for row in questions),
        divergence=divergence,
    )


def _compared(row: ScoredRow) -> ComparedRow:
    answers = tuple(
        Answered(text=answer.text, is_cut=answer.is_cut, rouge_l=answer.scores.rouge_l, bleu_4=answer.scores.bleu_4)
        for answer in row.answers
    )
    example = row.example
    return ComparedRow(
        number=row.index + 1, prompt=example.prompt, history=example.history, reference=row.reference, answers=answers
    )


def _write(
    comparison: Comparison, rows: Sequence[ScoredRow], directory: Path, tokenizer: ChatGLMTokenizer, language: str
) -> None:
    contents = {
        directory / RESULT_FILE: comparison.model_dump_json(indent=1),
        directory / REPORT_FILE: comparison_page(
            comparison, language=language, stylesheet=STYLESHEET.read_text(encoding="utf-8")
        ),
        directory / CSV_FILE: as_csv(comparison),
    }
    if not rows:
        del contents[directory / CSV_FILE]
    # The original's name for the first checkpoint, or for the base where it is alone; others are numbered.
    first = min(1, len(comparison.contestants) - 1)
    for place in range(first, len(comparison.contestants)) if rows else ():
        number = "" if place == first else f"-{place}"
        contents[directory / f"generated_predictions{number}.txt"] = predictions(rows, tokenizer, place)
    with explaining_storage_errors(directory):
        write_together(contents)
        for name in (ROWS_JOURNAL, GENERAL_JOURNAL, PAIRS_JOURNAL):
            (directory / name).unlink(missing_ok=True)
