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

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix, load_prefix, load_tokenizer
from chatglm2.checkpoints.hub import resolve_model_directory
from chatglm2.checkpoints.loading import read_config
from chatglm2.errors import DeviceMemoryError
from training.comparison.place import CSV_FILE, REPORT_FILE, RESULT_FILE
from training.comparison.report import comparison_page
from training.comparison.request import ComparisonRequest
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
from training.data.columns import find_columns, find_prompt_column
from training.data.encoding import Example, find_general_prompts, read_examples
from training.data.files import read_table
from training.data.shapes import KNOWN_COLUMNS
from training.evaluation.answering import ASKING, Answer, answer_examples
from training.evaluation.job import STYLESHEET, UNNOTED, Watcher, out_of_memory, predictions
from training.evaluation.journal import Journal, fingerprint, weights_stamp
from training.evaluation.metrics import mean_scores
from training.evaluation.scoring import ScoredRow, score_row
from training.evaluation.strengths import likeness
from training.plan.base_model import load_base, require_device
from training.runs.checkpoints import read_checkpoint
from training.runs.storage import explaining_storage_errors, write_together
from training.settings.train import TrainingSettings

ROWS_JOURNAL, GENERAL_JOURNAL = "rows.partial.jsonl", "general.partial.jsonl"
# More general questions tell no more, and take longer than the task.
MOST_QUESTIONS = 200


@dataclass(frozen=True)
class _Answering:
    """What answers: a loaded model with every contender's prefix, the base's None first."""

    model: ChatGLMForConditionalGeneration
    tokenizer: ChatGLMTokenizer
    prefixes: tuple[Prefix | None, ...]
    directory: Path
    watcher: Watcher
    total: int

    def answers(
        self, examples: Sequence[Example], settings: TrainingSettings, journal: Path, before: int
    ) -> list[list[Answer]]:
        """Everybody's answers in the order of the examples; ``before`` of the total are done already."""
        asked = {name: value for name, value in settings.to_dict().items() if name not in UNNOTED}
        hashes = [prefix.sha256 if prefix else None for prefix in self.prefixes]
        stamp = weights_stamp(self.directory)
        evaluation = fingerprint(examples, settings=asked, weights=stamp, prefixes=hashes)
        kept = Journal(journal, evaluation, len(self.prefixes))
        found = kept.begin(len(examples))
        self.watcher.progress(before + len(found), self.total)
        known = frozenset(found)
        for place, answers in answer_examples(self.model, self.tokenizer, examples, settings, self.prefixes, known):
            found[place] = answers
            kept.append(place, answers)
            self.watcher.progress(before + len(found), self.total)
        return [found[place] for place in range(len(examples))]


def run_comparison(request: ComparisonRequest, directory: Path, watcher: Watcher, language: str = "en") -> Comparison:
    """Compare as ``request`` asks, and write the results into ``directory``; the report is in ``language``.

    Raises:
        ChatGLMError: for a model, prefix or file that cannot be used, or a disk that cannot be written.
    """
    settings = request.settings()
    with explaining_storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    examples = read_rows(Path(request.file), settings)
    general = read_general(Path(request.general), settings) if request.general else []
    place = resolve_model_directory(settings.model_name_or_path, hub=settings.hub)
    config = read_config(place)
    prefixes = (None, *(load_prefix(checkpoint, config) for checkpoint in request.checkpoints))
    tokenizer = load_tokenizer(settings.model_name_or_path, hub=settings.hub)
    require_device(settings)
    watcher.say(f"Loading {settings.model_name_or_path}", f"正在加载 {settings.model_name_or_path}")
    try:
        model = load_base(settings)
        answering = _Answering(model, tokenizer, prefixes, place, watcher, len(examples) + len(general))
        started = time.monotonic()
        found = answering.answers(examples, settings, directory / ROWS_JOURNAL, 0)
        asking = replace(settings, **ASKING)
        said = answering.answers(general, asking, directory / GENERAL_JOURNAL, len(examples)) if general else []
    except (torch.OutOfMemoryError, DeviceMemoryError) as error:
        raise out_of_memory(settings) from error
    rows = [score_row(tokenizer, examples, settings, index, answers) for index, answers in enumerate(found)]
    questions = [
        GeneralRow(question=row.prompt, expected=row.response, answers=tuple(answer.text for answer in answers))
        for row, answers in zip(general, said, strict=True)
    ]
    comparison = Comparison(
        model=settings.model_name_or_path,
        file=request.file,
        general_file=request.general,
        finished_at=datetime.now().isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        contestants=_contestants(request, rows, questions),
        rows=tuple(map(_compared, rows)),
        general=tuple(questions),
    )
    _write(comparison, rows, directory, tokenizer, language)
    return comparison


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


def _contestants(
    request: ComparisonRequest, rows: Sequence[ScoredRow], questions: Sequence[GeneralRow]
) -> tuple[Contestant, ...]:
    found = [
        Contestant(
            name="" if checkpoint is None else _name(checkpoint),
            checkpoint=checkpoint,
            scores=mean_scores([row.answers[place].scores for row in rows]).to_dict(),
            kept=_kept(questions, place) if questions else None,
        )
        for place, checkpoint in enumerate((None, *request.checkpoints))
    ]
    edge = on_edge([(item.task, item.kept.likeness if item.kept else 0.0) for item in found])
    return tuple(item.model_copy(update={"on_edge": best}) for item, best in zip(found, edge, strict=True))


def _name(checkpoint: str) -> str:
    info = read_checkpoint(Path(checkpoint))
    return f"{info.run_name} / {info.path.name}"


def _kept(questions: Sequence[GeneralRow], place: int) -> Kept:
    likenesses = [likeness(row.answers[place], row.answers[0]) for row in questions]
    return Kept(
        likeness=sum(likenesses) / len(likenesses),
        unchanged=sum(row.answers[place] == row.answers[0] for row in questions),
        right=sum(bool(row.expected) and row.answers[place].strip() == row.expected for row in questions),
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
    # The original's name for the first checkpoint, or for the base where it is alone; others are numbered.
    first = min(1, len(comparison.contestants) - 1)
    for place in range(first, len(comparison.contestants)):
        number = "" if place == first else f"-{place}"
        contents[directory / f"generated_predictions{number}.txt"] = predictions(rows, tokenizer, place)
    with explaining_storage_errors(directory):
        write_together(contents)
        for name in (ROWS_JOURNAL, GENERAL_JOURNAL):
            (directory / name).unlink(missing_ok=True)
