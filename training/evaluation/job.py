"""An evaluation from its plan to its files: load, answer, score, write.

Knows the files by the original's names. Tells a `Watcher` how far it is; neither prints nor knows a terminal.

Nothing is written before everything is done, and then all files together, so that those of an earlier evaluation are
only ever replaced by complete ones. Answers go to a file of their own as they come: an evaluation that was cut off,
however that was, goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import torch

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix, load_prefix, load_tokenizer
from chatglm2.checkpoints.hub import resolve_model_directory
from chatglm2.checkpoints.loading import read_config
from chatglm2.errors import DeviceMemoryError, RunError
from chatglm2.model.prefix_files import PREFIX_FILE
from training.data.columns import find_columns
from training.data.encoding import Example, read_examples
from training.data.files import read_table
from training.evaluation.answering import Answer
from training.evaluation.journal import Journal, fingerprint, weights_stamp
from training.evaluation.plan import EvaluationPlan
from training.evaluation.reporting.report import report_data, report_page
from training.evaluation.request import EVAL, PREDICT
from training.evaluation.scoring import Contender, Evaluation, ScoredRow, mean_loss, score_row, score_rows
from training.evaluation.strengths import StrengthSweep, read_strengths, sweep_strengths
from training.plan.base_model import load_base, require_device
from training.runs.checkpoints import STRENGTH_FILE
from training.runs.results import as_json, write_results
from training.runs.storage import explaining_storage_errors, hidden_name, write_together
from training.settings.samples import PROJECT_ROOT
from training.settings.train import TrainingSettings

PREDICTIONS_FILE = "generated_predictions.txt"
PARTIAL_FILE = "{split}_answers.partial.jsonl"
STYLESHEET = PROJECT_ROOT / "assets" / "styles" / "report.css"
# Settings of an evaluation that change no answer to a row.
UNNOTED = frozenset(
    (
        *("per_device_eval_batch_size", "baseline", "ptuning_checkpoint", "checkpoints", "general", "choices", "bias"),
        *("test_file", "validation_file", "max_predict_samples", "max_eval_samples"),
    )
)
# Reports lie side by side where both are asked for.
REPORT_NAMES = {PREDICT: "report", EVAL: "eval_report"}


class Watcher(Protocol):
    """Who is told how far an evaluation is."""

    def say(self, en: str, zh: str) -> None:
        """A sentence worth keeping."""

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` rows are answered."""


def run_evaluations(
    plans: Sequence[EvaluationPlan], watcher: Watcher, language: str = "en", questions: Sequence[str] = ()
) -> Iterator[tuple[EvaluationPlan, Evaluation]]:
    """Evaluate each plan of one request with one loaded model, and write its results; reports are in ``language``.

    At other strengths of the prefix, where the plan asks for them, ``questions`` tell what is kept of the rest.

    Raises:
        ChatGLMError: for a model, prefix or file that cannot be used, or a disk that cannot be written.
        KeyboardInterrupt: after it was told where the answers so far are.
    """
    data = [_prepare(plan, watcher) for plan in plans]
    contenders = _load_contenders(plans[0], watcher)
    strengths = _strengths(plans[0], contenders[0].prefix, watcher)
    settings = plans[0].settings
    try:
        tokenizer = load_tokenizer(settings.model_name_or_path, hub=settings.hub)
        require_device(settings)
        watcher.say(f"Model {settings.model_name_or_path}", f"模型 {settings.model_name_or_path}")
        model = load_base(settings)
        for plan, examples in zip(plans, data, strict=True):
            evaluation = _evaluate(plan, model, tokenizer, examples, contenders, watcher)
            if strengths:
                sweep = sweep_strengths(
                    model, tokenizer, examples, plan.settings, strengths, questions, watcher.progress
                )
                evaluation = replace(evaluation, sweep=sweep)
                _note_strength(plan, sweep, watcher)
            try:
                _write(plan, evaluation, tokenizer, language)
            except RunError:  # a full disk; what took so long to find out is not lost
                found = " ".join(f"{name} {value:.4f}" for name, value in results(evaluation).items())
                watcher.say(f"The scores, which cannot be written: {found}", f"无法写入的得分：{found}")
                raise
            yield plan, evaluation
    except torch.OutOfMemoryError as error:
        raise out_of_memory(settings) from error


def report_path(plan: EvaluationPlan) -> Path:
    """Where the report for people is."""
    return plan.output_dir / f"{REPORT_NAMES[plan.split]}.html"


def results(evaluation: Evaluation) -> dict[str, float]:
    """Scores and figures by the original's names."""
    count = len(evaluation.rows)
    scores = evaluation.scores()
    figures: dict[str, float] = {
        **scores.to_dict(),
        "empty_predictions": scores.empty_predictions,
        "runtime": round(evaluation.seconds, 4),
        "samples": count,
        "samples_per_second": round(count / max(evaluation.seconds, 1e-9), 3),
    }
    loss = evaluation.contenders[0].loss
    if loss is not None:
        figures["loss"] = loss
    if evaluation.sweep is not None:
        figures["proposed_strength"] = evaluation.sweep.proposed
    return {f"{evaluation.split}_{name}": value for name, value in figures.items()}


def predictions(rows: Sequence[ScoredRow], tokenizer: ChatGLMTokenizer, contender: int = 0) -> str:
    """The original's file of a contender's answers: one JSON object a line, spaces before punctuation taken out."""

    def clean(text: str) -> str:
        return tokenizer.clean_up_tokenization(text).strip()

    lines = [{"labels": clean(row.reference), "predict": clean(row.answers[contender].text)} for row in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _prepare(plan: EvaluationPlan, watcher: Watcher) -> list[Example]:
    """The examples of a plan; what could stop it later, such as a directory that cannot be written, stops it here."""
    for note in plan.notes:
        watcher.say(*note)
    with explaining_storage_errors(plan.output_dir):
        plan.output_dir.mkdir(parents=True, exist_ok=True)
        trial = hidden_name(plan.output_dir / PREDICTIONS_FILE, "partial")
        trial.touch()
        trial.unlink()
    table = read_table(plan.file, skip_bad_rows=plan.settings.skip_bad_rows)
    columns = find_columns(table, plan.settings)
    examples, dropped = read_examples(table, columns, plan.limit)
    if dropped:
        watcher.say(
            f"{plan.file.name}: {dropped} rows have an empty prompt or answer and are left out.",
            f"{plan.file.name}：{dropped} 行的提示或回答为空，已跳过。",
        )
    if table.bad_rows.numbers:
        watcher.say(*table.bad_rows.describe(plan.file.name))
    if plan.limit and plan.limit < len(table.rows):
        flag = "max_predict_samples" if plan.split == PREDICT else "max_eval_samples"
        watcher.say(
            f"The first {plan.limit:,} of {len(table.rows):,} rows (--{flag}).",
            f"只用前 {plan.limit:,} 行，共 {len(table.rows):,} 行（--{flag}）。",
        )
    return examples


def _load_contenders(plan: EvaluationPlan, watcher: Watcher) -> tuple[Contender, ...]:
    """Who answers; the prefix is checked before the weights, which may take minutes, are loaded."""
    settings = plan.settings
    base = Contender(settings.model_name_or_path)
    if plan.checkpoint is None:
        return (base,)
    directory = resolve_model_directory(settings.model_name_or_path, hub=settings.hub)
    prefix = load_prefix(plan.checkpoint, read_config(directory))
    plan.check_prefix(prefix)
    watcher.say(
        f"Prefix of {prefix.length} tokens, {prefix.short_hash}",
        f"前缀长度 {prefix.length}，{prefix.short_hash}",
    )
    tuned = Contender(settings.model_name_or_path, plan.checkpoint, prefix)
    return (tuned, base) if settings.baseline else (tuned,)


def _strengths(plan: EvaluationPlan, prefix: Prefix | None, watcher: Watcher) -> list[tuple[float, Prefix]]:
    """The prefix at each strength that is asked for; what is no strength is refused before weights are loaded."""
    if not plan.settings.strengths:
        return []
    if prefix is None:
        watcher.say("--strengths is of a prefix; there is none.", "--strengths 用于前缀，而这里没有前缀。")
        return []
    return [(strength, prefix.at(strength)) for strength in read_strengths(plan.settings.strengths)]


def _evaluate(
    plan: EvaluationPlan,
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    contenders: tuple[Contender, ...],
    watcher: Watcher,
) -> Evaluation:
    if plan.split == EVAL:
        contenders = tuple(
            replace(contender, loss=mean_loss(model, tokenizer, examples, plan.settings, contender.prefix))
            for contender in contenders
        )
    started = time.monotonic()
    rows = _answer(plan, model, tokenizer, examples, contenders, watcher)
    seconds = time.monotonic() - started
    return Evaluation(plan.split, plan.file, contenders, rows, plan.settings, seconds, datetime.now())


def _answer(
    plan: EvaluationPlan,
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    contenders: Sequence[Contender],
    watcher: Watcher,
) -> tuple[ScoredRow, ...]:
    journal = _open_journal(plan, examples, contenders)
    known = journal.begin(len(examples))
    if known:
        watcher.say(
            f"{len(known)} of {len(examples)} answers are there from an evaluation that was cut off; it goes on.",
            f"之前中断的评估已有 {len(known)}/{len(examples)} 个回答，现在接着进行。",
        )
    rows = [score_row(tokenizer, examples, plan.settings, place, answers) for place, answers in known.items()]
    prefixes = [contender.prefix for contender in contenders]
    try:
        watcher.progress(len(rows), len(examples))
        for row in score_rows(model, tokenizer, examples, plan.settings, prefixes, known):
            rows.append(row)
            journal.append(row.index, [Answer(answer.text, answer.is_cut) for answer in row.answers])
            watcher.progress(len(rows), len(examples))
    except KeyboardInterrupt:
        watcher.say(
            f"Interrupted: {len(rows)} of {len(examples)} answers are in {journal.file}, and the same command goes on "
            "from there; earlier results are as they were.",
            f"已中断：{len(examples)} 个回答中已完成的 {len(rows)} 个保存在 {journal.file}，"
            "再次执行相同命令即可接着进行；之前的结果保持不变。",
        )
        raise
    except DeviceMemoryError as error:  # it speaks of the page's settings
        raise out_of_memory(plan.settings) from error
    return _in_order(rows)


def _open_journal(plan: EvaluationPlan, examples: Sequence[Example], contenders: Sequence[Contender]) -> Journal:
    """Answers depend on the rows, the weights, the prefixes and how they are sampled; not on how many at a time."""
    settings = {name: value for name, value in plan.settings.to_dict().items() if name not in UNNOTED}
    directory = resolve_model_directory(plan.settings.model_name_or_path, hub=plan.settings.hub)
    evaluation = fingerprint(
        examples,
        settings=settings,
        weights=weights_stamp(directory),
        prefixes=[contender.prefix.sha256 if contender.prefix else None for contender in contenders],
    )
    return Journal(plan.output_dir / PARTIAL_FILE.format(split=plan.split), evaluation, len(contenders))


def _in_order(rows: Sequence[ScoredRow]) -> tuple[ScoredRow, ...]:
    return tuple(sorted(rows, key=lambda row: row.index))


def _write(plan: EvaluationPlan, evaluation: Evaluation, tokenizer: ChatGLMTokenizer, language: str) -> None:
    directory, found = plan.output_dir, results(evaluation)
    page = report_page(evaluation, language=language, stylesheet=STYLESHEET.read_text(encoding="utf-8"))
    contents = {
        report_path(plan): page,
        report_path(plan).with_suffix(".json"): as_json(report_data(evaluation)),
    }
    if plan.split == PREDICT:
        contents[directory / PREDICTIONS_FILE] = predictions(evaluation.rows, tokenizer)
    with explaining_storage_errors(directory):
        write_results(directory, plan.split, found, contents)
        (directory / PARTIAL_FILE.format(split=plan.split)).unlink(missing_ok=True)


def _note_strength(plan: EvaluationPlan, sweep: StrengthSweep, watcher: Watcher) -> None:
    """Leave what is proposed beside the prefix, where the page finds it."""
    if plan.checkpoint is None or not (plan.checkpoint / PREFIX_FILE).is_file():  # not ours, or a lone file
        return
    content = {"proposed": sweep.proposed, "points": [point.to_dict() for point in sweep.points]}
    try:
        write_together({plan.checkpoint / STRENGTH_FILE: as_json(content)})
    except OSError as error:
        watcher.say(
            f"The proposed strength is not noted in {plan.checkpoint}: {error}",
            f"建议的前缀强度未能写入 {plan.checkpoint}：{error}",
        )


def out_of_memory(settings: TrainingSettings) -> RunError:
    """What to do where an evaluation takes more memory than there is."""
    size = settings.per_device_eval_batch_size
    return RunError(
        f"The GPU has too little free memory. Use a --per_device_eval_batch_size below {size}, or hold the model in "
        "fewer bits (--quantization_bit 4).",
        f"显存不足。请使用小于 {size} 的 --per_device_eval_batch_size，"
        "或以更少的位数存放模型（--quantization_bit 4）。",
    )
