"""What an evaluation looks like in a shell: sentences, one line that counts rows, and a table of scores at the end.

Writes to the streams that it is given; knows what is told and does not know how it is found out.
"""

from __future__ import annotations

import time
from typing import TextIO

from training.cli.screen import Lines, in_columns
from training.comparison.result import Comparison
from training.comparison.sheets import Sheet
from training.comparison.words import WORDS as COMPARISON_WORDS
from training.evaluation.reporting.report import METRIC_NAMES, METRICS, WORDS, contender_names
from training.evaluation.scoring import Evaluation
from training.evaluation.strengths import StrengthSweep
from training.settings.field import Words

# A file or a pipe gets a line now and then; a terminal's line changes in place.
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_CHANGES = 0.1
# The first answers come late and together, so that they tell little of the rest.
SECONDS_BEFORE_GUESSING = 3.0


class ProgressLine:
    """Tells a person how far an evaluation is, in one language."""

    def __init__(self, stream: TextIO, language: str) -> None:
        self._lines = Lines(stream)
        self._language = language
        self._started = self._shown = 0.0

    def say(self, en: str, zh: str) -> None:
        """A sentence on a line of its own."""
        self._lines.close()
        self._lines.keep(zh if self._language == "zh" else en)

    def progress(self, done: int, total: int) -> None:
        """Rows answered so far, how fast, and how long the rest takes."""
        now = time.monotonic()
        if done == 0:
            self._started = self._shown = now
            return
        pause = SECONDS_BETWEEN_CHANGES if self._lines.change_in_place else SECONDS_BETWEEN_LINES
        if done < total and now - self._shown < pause:
            return
        self._shown = now
        rate = done / max(now - self._started, 1e-9)
        left_en = left_zh = ""
        if now - self._started > SECONDS_BEFORE_GUESSING:
            left = (total - done) / rate
            left_en, left_zh = f"  {left:.0f} s left", f"  剩余 {left:.0f} 秒"
        en = f"{done:>6}/{total} answered  {rate:.1f} rows/s{left_en}"
        zh = f"已回答 {done:>6}/{total}  每秒 {rate:.1f} 行{left_zh}"
        self._lines.change(zh if self._language == "zh" else en)
        if done == total:
            self._lines.close()


def score_table(evaluation: Evaluation, language: str) -> str:
    """Mean scores as aligned lines; with a baseline, both and what the prefix changed."""

    def word(key: str) -> str:
        words: Words = WORDS[key]
        return words[language == "zh"]

    names = contender_names(evaluation)
    scores = [evaluation.scores(place) for place in range(len(names))]
    head = ["", *(word(name) for name in names)]
    lines = [[METRIC_NAMES[metric], *(f"{item.to_dict()[metric]:.2f}" for item in scores)] for metric in METRICS]
    if len(names) > 1:
        head.append(word("difference"))
        for line, metric in zip(lines, METRICS, strict=True):
            line.append(f"{scores[0].to_dict()[metric] - scores[1].to_dict()[metric]:+.2f}")
    losses = [contender.loss for contender in evaluation.contenders]
    known = [loss for loss in losses if loss is not None]
    if known:
        changes = [f"{known[0] - known[1]:+.4f}"] if len(known) > 1 else []
        lines.append([word("loss"), *(f"{loss:.4f}" for loss in known), *changes])
    for key, counts in (
        ("empty", [item.empty_predictions for item in scores]),
        ("cut", [evaluation.cut_answers(place) for place in range(len(names))]),
    ):
        if any(counts):
            lines.append([word(key), *map(str, counts)])
    return in_columns([head, *lines], numbers=True)


def strength_table(sweep: StrengthSweep, language: str) -> str:
    """What the prefix does at each strength, as aligned lines; one is proposed."""

    def word(key: str, **values: int) -> str:
        words: Words = WORDS[key]
        return words[language == "zh"].format(**values)

    lines = [[word(key) for key in ("strength", "task", "kept", "unchanged", "proposed")]]
    for point in sweep.points:
        unchanged = word("of_questions", count=point.unchanged, total=sweep.questions)
        mark = "←" if point.strength == sweep.proposed else ""
        lines.append([f"{point.strength:g}", f"{point.task.rouge_l:.2f}", f"{point.kept:.2f}", unchanged, mark])
    return in_columns(lines, numbers=True)


def comparison_table(comparison: Comparison, language: str) -> str:
    """Everybody's mean scores, and what they keep, as aligned lines."""

    def word(key: str, **values: int) -> str:
        return COMPARISON_WORDS[key][language == "zh"].format(**values)

    metrics = METRICS if comparison.rows else ()
    head = ["", *(METRIC_NAMES[metric] for metric in metrics)]
    if comparison.general:
        head += [word(key) for key in ("kept", "unchanged", "right", "divergence", "edge")]
    lines = [head]
    for item in comparison.contestants:
        line = [item.name or word("base"), *(f"{item.scores[metric]:.2f}" for metric in metrics)]
        if item.kept is not None:
            total, answered = len(comparison.general), comparison.questions_with_answers
            unchanged = word("of", count=item.kept.unchanged, total=total)
            right = word("of", count=item.kept.right, total=answered)
            divergence = "–" if item.kept.divergence is None else f"{item.kept.divergence:.4f}"
            line += [f"{item.kept.likeness:.2f}", unchanged, right, divergence, "*" if item.on_edge else ""]
        lines.append(line)
    return in_columns(lines, numbers=True)


def sheet_lines(sheet: Sheet) -> str:
    """A table with its title and what its figures are."""
    return "\n".join(("", sheet.title, in_columns([sheet.head, *sheet.lines], numbers=True), sheet.note))
