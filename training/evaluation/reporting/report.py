"""An evaluation as a report: data for programs, and one HTML page for people that needs nothing else.

From an `Evaluation` to text; `templates/report.html` says how the page is built. Everything that a model or a data file
said is escaped; the page runs no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training.evaluation.reporting.charts import difference_bar, score_histogram, strength_curves
from training.evaluation.reporting.standalone_page import render_page
from training.evaluation.scoring import Contender, Evaluation, ScoredAnswer, ScoredRow
from training.settings.field import SettingValue, Words
from training.settings.train import TrainingSettings, setting_fields

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
METRIC_NAMES = {"rouge-1": "ROUGE-1", "rouge-2": "ROUGE-2", "rouge-l": "ROUGE-L", "bleu-4": "BLEU-4"}
# What rows are ordered by: the score that looks at whole answers.
LEADING_METRIC = "rouge-l"
SHOWN_EXTREMES = 10
SHOWN_ROWS = 1000
ANSWER_SETTINGS = (
    *("prompt_column", "response_column", "history_column", "source_prefix", "truncation", "max_source_length"),
    *("max_target_length", "quantization_bit", "dtype", "seed"),
)
SAME_BELOW = 0.005  # differences that print as 0.00

WORDS: dict[str, Words] = {
    "title": ("Evaluation", "评估报告"),
    "tuned": ("With the prefix", "带前缀"),
    "base": ("Base model", "基座模型"),
    "difference": ("Difference", "差值"),
    "metric": ("Score (0–100)", "指标（0–100）"),
    "loss": ("Loss", "损失"),
    "empty": ("Empty answers", "空回答"),
    "cut": ("Cut at the token limit", "达到长度上限"),
    "better": ("better", "更好"),
    "same": ("the same", "相同"),
    "worse": ("worse", "更差"),
    "rows_against_base": ("Rows against the base, by ROUGE-L", "与基座逐行比较（ROUGE-L）"),
    "distribution": ("Rows by ROUGE-L", "ROUGE-L 分布"),
    "strengths": ("By strength of the prefix", "不同前缀强度"),
    "strength": ("Strength", "强度"),
    "task": ("Task, ROUGE-L", "任务 ROUGE-L"),
    "kept": ("Kept of the rest", "保留的原有能力"),
    "unchanged": ("Answered as the base", "与基座回答相同"),
    "of_questions": ("{count} of {total}", "{count} / {total}"),
    "proposed": ("proposed", "建议"),
    "strength_note": (
        "Kept: ROUGE-L of the answers to {total} general questions against the base model's own. Proposed is the least "
        "strength whose task score is within 2 % of the best.",
        "保留的原有能力：{total} 个通用问题的回答与基座模型回答之间的 ROUGE-L。"
        "建议值是任务得分与最高分相差不超过 2% 的最小强度。",
    ),
    "worst": ("Worst rows, by ROUGE-L", "ROUGE-L 最低的行"),
    "lost": ("Most lost against the base, by ROUGE-L", "ROUGE-L 比基座下降最多的行"),
    "all": ("All rows, by number", "全部行（按行号）"),
    "first_rows": (
        "The first {shown} of {total}; report.json holds all.",
        "前 {shown} 行，共 {total} 行；全部见 report.json。",
    ),
    "prompt": ("Prompt", "提示"),
    "history": ("Earlier rounds", "之前的轮次"),
    "reference": ("Reference", "参考答案"),
    "no_text": ("no text", "没有文字"),
    "model": ("Model", "模型"),
    "prefix": ("Prefix", "前缀"),
    "tokens": ("{count} tokens", "长度 {count}"),
    "data": ("Data", "数据"),
    "rows": ("{count} rows", "{count} 行"),
    "decoding": ("Decoding", "解码"),
    "greedy": ("greedy", "贪心"),
    "beams": ("{count} beams", "{count} 束"),
    "sampling": (
        "sampling, temperature {temperature:g}, top-p {top_p:g}",
        "采样，温度 {temperature:g}，top-p {top_p:g}",
    ),
    "seed": ("seed {seed}", "种子 {seed}"),
    "time": ("Time", "用时"),
    "seconds": ("{seconds:.1f} s, {rate:.1f} rows/s", "{seconds:.1f} 秒，每秒 {rate:.1f} 行"),
}


def report_data(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was found, for programs: means, differences, and each row with its answers and scores."""
    names = contender_names(evaluation)
    data: dict[str, Any] = {
        "format": 1,
        "split": evaluation.split,
        "finished_at": evaluation.finished_at.isoformat(timespec="seconds"),
        "seconds": round(evaluation.seconds, 3),
        "file": str(evaluation.file),
        "model": evaluation.contenders[0].model,
        "settings": _settings(evaluation.settings),
        "scores": {name: _means(evaluation, place) for place, name in enumerate(names)},
    }
    contender = evaluation.contenders[0]
    if contender.prefix is not None:
        prefix = contender.prefix
        data["prefix"] = {"path": str(contender.checkpoint), "length": prefix.length, "sha256": prefix.sha256}
    if len(names) > 1:
        tuned, base = (data["scores"][name] for name in names)
        data["difference"] = {metric: round(tuned[metric] - base[metric], 4) for metric in METRICS}
    if evaluation.sweep is not None:
        sweep = evaluation.sweep
        data["strengths"] = {
            "proposed": sweep.proposed,
            "questions": sweep.questions,
            "points": [point.to_dict() for point in sweep.points],
        }
    data["rows"] = [_row_data(row, names) for row in evaluation.rows]
    return data


def _settings(settings: TrainingSettings) -> dict[str, SettingValue]:
    """What the answers depend on."""
    names = {*ANSWER_SETTINGS, *(item.name for item in setting_fields() if item.group == "evaluation")}
    return {name: value for name, value in settings.to_dict().items() if name in names}


def contender_names(evaluation: Evaluation) -> list[str]:
    """``tuned`` for one with a prefix, ``base`` for the model that it is compared with, ``model`` for one by itself."""
    alone = len(evaluation.contenders) == 1
    bare = "model" if alone else "base"
    return [bare if contender.prefix is None else "tuned" for contender in evaluation.contenders]


def _means(evaluation: Evaluation, place: int) -> dict[str, float]:
    scores, loss = evaluation.scores(place), evaluation.contenders[place].loss
    means = {name: round(value, 4) for name, value in scores.to_dict().items()}
    means |= {"empty_predictions": scores.empty_predictions, "cut_predictions": evaluation.cut_answers(place)}
    return means | ({"loss": loss} if loss is not None else {})


def _row_data(row: ScoredRow, names: Sequence[str]) -> dict[str, Any]:
    data: dict[str, Any] = {"row": row.index + 1, "prompt": row.example.prompt, "reference": row.reference}
    if row.example.history:
        data["history"] = [list(turn) for turn in row.example.history]
    for name, answer in zip(names, row.answers, strict=True):
        data[name] = {
            "answer": answer.text,
            **answer.scores.to_dict(),
            "empty": answer.is_empty,
            "cut": answer.is_cut,
        }
    if len(names) > 1:
        data["difference"] = {metric: round(_gain(row, metric), 4) for metric in METRICS}
    return data


def _gain(row: ScoredRow, metric: str = LEADING_METRIC) -> float:
    tuned, base = (answer.scores.to_dict()[metric] for answer in row.answers)
    return tuned - base


def _leading(answer: ScoredAnswer) -> float:
    return answer.scores.to_dict()[LEADING_METRIC]


@dataclass(frozen=True)
class Difference:
    """A difference as it is shown, and whether it is ``better``, ``same`` or ``worse``."""

    kind: str
    text: str


def _difference(value: float, good_sign: int = 1, decimals: int = 2) -> Difference:
    """``good_sign`` is -1 where less is better."""
    if abs(value) < 0.5 * 10**-decimals:
        return Difference("same", "0")
    return Difference("better" if value * good_sign > 0 else "worse", f"{value:+.{decimals}f}".replace("-", "−"))


@dataclass(frozen=True)
class SummaryLine:
    """What each contender has of a measure, and what the prefix changed."""

    name: str
    values: list[str]
    difference: Difference | None


@dataclass(frozen=True)
class RowList:
    """Rows under a heading."""

    key: str
    rows: Sequence[ScoredRow]
    note: str = ""


def report_page(evaluation: Evaluation, *, language: str, stylesheet: str) -> str:
    """The whole report as one HTML page in ``language``."""
    return _Page(evaluation, language).render(stylesheet)


def _subject(contender: Contender) -> str:
    """The model's name, or the checkpoint's with the run that it is of."""
    if contender.checkpoint is None:
        return Path(contender.model).name
    place = contender.checkpoint
    return f"{place.parent.name} / {place.name}" if place.name.startswith("checkpoint-") else place.name


class _Page:
    """What the page's template needs, in one language."""

    def __init__(self, evaluation: Evaluation, language: str) -> None:
        self.evaluation = evaluation
        self.language = language
        self.names = contender_names(evaluation)
        self.compares = len(self.names) > 1

    def word(self, key: str, **values: Any) -> str:
        return WORDS[key][self.language == "zh"].format(**values)

    def render(self, stylesheet: str) -> str:
        columns = [self.word(name) for name in self.names] if self.compares else [METRIC_NAMES[LEADING_METRIC]]
        changes = self._changes() if self.compares else {}
        return render_page(
            "report.html",
            f"{self.word('title')} · {_subject(self.evaluation.contenders[0])}",
            self.language,
            stylesheet,
            finished_at=self.evaluation.finished_at,
            facts=self._facts(),
            names=self.names,
            compares=self.compares,
            summary=self._summary(),
            histogram=Markup(self._histogram()),
            changes=changes,
            bar=Markup(difference_bar(changes)),
            sweep=self.evaluation.sweep,
            curves=Markup(self._curves()),
            columns=[*columns, *[self.word("difference")] * self.compares],
            lists=self._lists(),
            metric_names=METRIC_NAMES,
            word=self.word,
            leading=_leading,
            gain=_gain,
            difference=_difference,
            rounds=_rounds,
        )

    def _facts(self) -> list[tuple[str, str]]:
        evaluation, contender = self.evaluation, self.evaluation.contenders[0]
        facts = [("model", contender.model)]
        if contender.prefix is not None:
            length = self.word("tokens", count=contender.prefix.length)
            facts.append(("prefix", f"{contender.checkpoint} · {length} · {contender.prefix.short_hash}"))
        count, seconds = len(evaluation.rows), evaluation.seconds
        facts += [
            ("data", f"{evaluation.file} · {self.word('rows', count=f'{count:,}')}"),
            ("decoding", self._decoding()),
            ("time", self.word("seconds", seconds=seconds, rate=count / max(seconds, 1e-9))),
        ]
        return [(self.word(key), value) for key, value in facts]

    def _decoding(self) -> str:
        settings = self.evaluation.settings
        parts = [self.word("beams", count=settings.num_beams)] if settings.num_beams > 1 else []
        if settings.do_sample:
            parts.append(self.word("sampling", temperature=settings.temperature, top_p=settings.top_p))
            parts.append(self.word("seed", seed=settings.seed))
        elif not parts:
            parts.append(self.word("greedy"))
        return " · ".join(parts)

    def _summary(self) -> list[SummaryLine]:
        """The table of means; with a baseline, both columns and what the prefix changed."""
        means = [_means(self.evaluation, place) for place in range(len(self.names))]
        lines = [self._summary_line(METRIC_NAMES[metric], [mean[metric] for mean in means], 1) for metric in METRICS]
        if "loss" in means[0]:
            lines.append(self._summary_line(self.word("loss"), [mean["loss"] for mean in means], -1, decimals=4))
        for key in ("empty", "cut"):
            counts = [mean[f"{key}_predictions"] for mean in means]
            if any(counts):
                lines.append(self._summary_line(self.word(key), counts, -1, decimals=0))
        return lines

    def _summary_line(self, name: str, values: Sequence[float], good_sign: int, decimals: int = 2) -> SummaryLine:
        change = _difference(values[0] - values[1], good_sign, decimals) if self.compares else None
        return SummaryLine(name, [f"{value:.{decimals}f}" for value in values], change)

    def _histogram(self) -> str:
        columns = [[_leading(row.answers[place]) for row in self.evaluation.rows] for place in range(len(self.names))]
        return score_histogram(columns, self.names, self.word("distribution"))

    def _curves(self) -> str:
        sweep = self.evaluation.sweep
        if sweep is None:
            return ""
        curves = {
            "task": [point.task.rouge_l for point in sweep.points],
            "kept": [point.kept for point in sweep.points],
        }
        strengths = [point.strength for point in sweep.points]
        return strength_curves(strengths, curves, sweep.proposed, self.word("strengths"))

    def _changes(self) -> dict[str, int]:
        """How many rows are better, the same and worse than the base's."""
        gains = [_gain(row) for row in self.evaluation.rows]
        return {
            "better": sum(gain >= SAME_BELOW for gain in gains),
            "same": sum(abs(gain) < SAME_BELOW for gain in gains),
            "worse": sum(gain <= -SAME_BELOW for gain in gains),
        }

    def _lists(self) -> list[RowList]:
        rows = self.evaluation.rows
        worst = sorted(rows, key=lambda row: (_leading(row.answers[0]), row.answers[0].scores.bleu_4))
        lists = [RowList("worst", worst[:SHOWN_EXTREMES])]
        if self.compares:
            lost = sorted((row for row in rows if _gain(row) <= -SAME_BELOW), key=_gain)
            lists.append(RowList("lost", lost[:SHOWN_EXTREMES]))
        note = self.word("first_rows", shown=f"{SHOWN_ROWS:,}", total=f"{len(rows):,}")
        return [*lists, RowList("all", rows[:SHOWN_ROWS], note if len(rows) > SHOWN_ROWS else "")]


def _rounds(history: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{question}\n→ {answer}" for question, answer in history)
