"""A comparison for people: one HTML page that needs nothing else, and the picture of the task against what is kept.

Everything that a model or a data file said is escaped; the page runs no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from training.comparison.result import Comparison
from training.evaluation.reporting.report import METRIC_NAMES
from training.evaluation.reporting.standalone_page import render_page
from training.settings.field import Words

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 16, 40
LABEL_WIDTH, LABEL_HEIGHT = 130, 13
LEAST_SPAN = 4.0  # of an axis, so that points of one value do not fill it

WORDS: dict[str, Words] = {
    "title": ("Evaluation of {count} checkpoints", "{count} 个检查点的评估"),
    "base": ("Base model", "基座模型"),
    "who": ("Who answers", "回答者"),
    "task_axis": ("Task, ROUGE-L", "任务 ROUGE-L"),
    "kept_axis": ("Kept of the base, ROUGE-L", "保留的原有能力 ROUGE-L"),
    "kept": ("Kept", "保留"),
    "unchanged": ("As the base", "与基座相同"),
    "right": ("Right", "答对"),
    "of": ("{count} of {total}", "{count} / {total}"),
    "edge": ("on the edge", "在前沿"),
    "edge_note": (
        "On the edge: nobody else does the task better without keeping less. Kept: ROUGE-L of the answers to {total} "
        "general questions against the base's own.",
        "在前沿：没有其他检查点能在不损失原有能力的情况下把任务做得更好。"
        "保留：{total} 个通用问题的回答与基座自身回答之间的 ROUGE-L。",
    ),
    "worst": ("{name}: worst rows", "{name}：得分最低的行"),
    "improved": ("{name}: most improved rows", "{name}：提高最多的行"),
    "prompt": ("Input", "输入"),
    "reference": ("Reference", "参考答案"),
    "difference": ("Difference", "差值"),
    "rows": ("{count} rows", "{count} 行"),
}


def comparison_page(comparison: Comparison, *, language: str, stylesheet: str) -> str:
    """The whole report as one HTML page in ``language``."""

    def word(key: str, **values: Any) -> str:
        return WORDS[key][language == "zh"].format(**values)

    return render_page(
        "comparison.html",
        word("title", count=len(comparison.contestants) - 1),
        language,
        stylesheet,
        comparison=comparison,
        names=[item.name or word("base") for item in comparison.contestants],
        metrics=METRIC_NAMES,
        picture=picture(comparison, language),
        word=word,
        file=Path(comparison.file).name,
    )


def picture(comparison: Comparison, language: str) -> Markup:
    """The task over what is kept, a point a contender; those on the edge are joined. Empty without questions."""
    if not comparison.general:
        return Markup()
    points = [(item.kept.likeness if item.kept else 0.0, item.task) for item in comparison.contestants]
    across, up = _span([kept for kept, _ in points]), _span([task for _, task in points])
    at = [(_x(kept, across), _y(task, up)) for kept, task in points]
    shapes = [_axis_names(language), *_ticks(across, up)]
    edge = sorted(place for place, item in zip(at, comparison.contestants, strict=True) if item.on_edge)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
    shapes.append(f'<polyline class="edge" points="{line}"/>')
    base = WORDS["base"][language == "zh"]
    labels: list[tuple[float, float]] = []
    for place, ((x, y), item) in enumerate(zip(at, comparison.contestants, strict=True)):
        kind = "base" if place == 0 else "tuned"
        name = escape(item.name or base)
        anchor = "end" if x > WIDTH / 2 else "start"
        shift = -8 if anchor == "end" else 8
        labels.append((x, _free_height(x, y - 7, labels)))
        shapes.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{name}</title></circle>'
            f'<text class="name" x="{x + shift:.1f}" y="{labels[-1][1]:.1f}" style="text-anchor: {anchor}">'
            f"{name}</text>"
        )
    label = escape(f"{WORDS['task_axis'][language == 'zh']} / {WORDS['kept_axis'][language == 'zh']}")
    box = f"0 0 {WIDTH} {HEIGHT}"
    return Markup(f'<svg class="scatter" viewBox="{box}" role="img" aria-label="{label}">{"".join(shapes)}</svg>')


def _free_height(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """Where a label fits that would begin at ``y``: below those of points that lie as good as in one place."""
    while any(abs(x - other) < LABEL_WIDTH and abs(y - height) < LABEL_HEIGHT for other, height in taken):
        y += LABEL_HEIGHT
    return y


def _axis_names(language: str) -> str:
    task, kept = (escape(WORDS[key][language == "zh"]) for key in ("task_axis", "kept_axis"))
    return (
        f'<text class="axis" x="{LEFT}" y="11" style="text-anchor: start">{task}</text>'
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" style="text-anchor: end">{kept}</text>'
    )


def _ticks(across: tuple[float, float], up: tuple[float, float]) -> list[str]:
    floor = HEIGHT - BOTTOM
    shapes = []
    for part in (0.0, 0.5, 1.0):
        value = up[0] + part * (up[1] - up[0])
        y = _y(value, up)
        shapes.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3:.1f}" style="text-anchor: end">{value:.1f}</text>')
        value = across[0] + part * (across[1] - across[0])
        shapes.append(f'<text class="tick" x="{_x(value, across):.1f}" y="{floor + 15}">{value:.1f}</text>')
    return shapes


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends: around its values, within 0 to 100."""
    margin = max((max(values) - min(values)) * 0.15, LEAST_SPAN / 2)
    return max(0.0, min(values) - margin), min(100.0, max(values) + margin)


def _x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - span[0]) / (span[1] - span[0])


def _y(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - span[0]) / (span[1] - span[0])
