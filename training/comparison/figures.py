"""A comparison's figures: bars of scores, and the task against what is kept of the base, by each measure of keeping.

Pure, without script: HTML and SVG for the report and the page, whose stylesheets have the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from training.comparison.result import Comparison, Kept, on_edge
from training.comparison.words import WORDS
from training.evaluation.reporting.report import METRIC_NAMES

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 24, 40
LABEL_WIDTH, LABEL_HEIGHT = 130, 13
LEAST_PART_OF_SPAN = 0.04  # of the values, so that points of one value do not fill an axis
LIKENESS, RIGHT_ANSWERS, DIVERGENCE = "likeness", "right", "divergence"


@dataclass(frozen=True)
class _Axis:
    """Values from ``begin`` to ``end`` over pixels; ``end`` is the better one, and the less where less is better."""

    begin: float
    end: float
    from_pixel: float
    to_pixel: float
    decimals: int = 1

    def at(self, value: float) -> float:
        return self.from_pixel + (self.to_pixel - self.from_pixel) * (value - self.begin) / (self.end - self.begin)

    def ticks(self) -> list[tuple[float, str]]:
        values = [self.begin + part * (self.end - self.begin) for part in (0.0, 0.5, 1.0)]
        return [(self.at(value), f"{value:.{self.decimals}f}") for value in values]


def kept_measures(comparison: Comparison) -> list[str]:
    """By which measures the comparison says what is kept."""
    if not comparison.general or not comparison.rows:
        return []
    measures = [LIKENESS]
    if comparison.questions_with_answers:
        measures.append(RIGHT_ANSWERS)
    if all(item.kept is not None and item.kept.divergence is not None for item in comparison.contestants):
        measures.append(DIVERGENCE)
    return measures


def picture(comparison: Comparison, measure: str, language: str) -> Markup:
    """The task over what is kept by one of `kept_measures`, a point a contender; those on the edge are joined."""
    kept = [_kept(comparison, item.kept, measure) for item in comparison.contestants]
    task = [item.task for item in comparison.contestants]
    better = [-value for value in kept] if measure == DIVERGENCE else kept
    is_on_edge = on_edge(list(zip(task, better, strict=True)))
    across = _axis(kept, LEFT, WIDTH - RIGHT, reverse=measure == DIVERGENCE)
    up = _axis(task, HEIGHT - BOTTOM, TOP)
    at = [(across.at(x), up.at(y)) for x, y in zip(kept, task, strict=True)]
    zh = language == "zh"
    shapes = [*_axis_names(measure, zh), *_ticks(across, up)]
    edge = sorted(place for place, best in zip(at, is_on_edge, strict=True) if best)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
    shapes.append(f'<polyline class="edge" points="{line}"/>')
    names = [item.name or WORDS["base"][zh] for item in comparison.contestants]
    shapes += _points(at, names, is_on_edge, WORDS["edge"][zh])
    label = escape(f"{WORDS['task_axis'][zh]} / {WORDS[f'{measure}_axis'][zh]}")
    box = f"0 0 {WIDTH} {HEIGHT}"
    return Markup(f'<svg class="scatter" viewBox="{box}" role="img" aria-label="{label}">{"".join(shapes)}</svg>')


def score_bars(comparison: Comparison, language: str) -> Markup:
    """A bar for each contender in each score, and in what it keeps, all from 0 to 100; empty without rows."""
    zh = language == "zh"
    groups = []
    if comparison.rows:
        groups += [(name, [item.scores[metric] for item in comparison.contestants]) for metric, name in _METRICS]
    kept = [item.kept for item in comparison.contestants]
    if comparison.general:
        groups.append((WORDS["kept"][zh], [each.likeness if each else 0.0 for each in kept]))
    if comparison.choices is not None:
        scores = comparison.choices.total.scores
        groups.append((WORDS["choice_accuracy"][zh], [100 * score.accuracy.value for score in scores]))
    names = [item.name or WORDS["base"][zh] for item in comparison.contestants]
    return (
        Markup('<div class="score-bars">')
        + Markup("").join(_bars(*group, names) for group in groups)
        + Markup("</div>")
    )


_METRICS = tuple(METRIC_NAMES.items())


def _bars(title: str, values: Sequence[float], names: Sequence[str]) -> Markup:
    lines = Markup("").join(
        Markup(
            '<div class="score-bar {kind}"><span class="who"><bdi>{name}</bdi></span><span class="track">'
            '<i style="width: {width:.1f}%"></i></span><span class="value">{value:.1f}</span></div>'
        ).format(kind="tuned" if place else "base", name=name, width=max(0.0, min(value, 100.0)), value=value)
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    )
    return Markup('<section role="group" aria-label="{title}"><h4>{title}</h4>{lines}</section>').format(
        title=title, lines=lines
    )


def _kept(comparison: Comparison, kept: Kept | None, measure: str) -> float:
    if kept is None:
        return 0.0
    if measure == RIGHT_ANSWERS:
        return 100 * kept.right / max(comparison.questions_with_answers, 1)
    return kept.likeness if measure == LIKENESS else kept.divergence or 0.0


def _axis(values: Sequence[float], from_pixel: float, to_pixel: float, *, reverse: bool = False) -> _Axis:
    """Around its values; percentages stay within 0 to 100, and what is reversed ends at 0 on the right."""
    low, high = min(values), max(values)
    if reverse:
        return _Axis(max(high * 1.15, 1e-3), 0.0, from_pixel, to_pixel, decimals=2 if high >= 0.1 else 4)
    margin = max((high - low) * 0.15, 100 * LEAST_PART_OF_SPAN / 2)
    return _Axis(max(0.0, low - margin), min(100.0, high + margin), from_pixel, to_pixel)


def _points(
    at: Sequence[tuple[float, float]], names: Sequence[str], is_on_edge: Sequence[bool], edge: str
) -> list[str]:
    labels: list[tuple[float, float]] = []
    shapes = []
    for place, ((x, y), name, best) in enumerate(zip(at, names, is_on_edge, strict=True)):
        kind = "tuned" if place else "base"
        told = escape(f"{name} · {edge}" if best else name)
        anchor = "end" if x > WIDTH / 2 else "start"
        shift = -8 if anchor == "end" else 8
        beside = y + 15 if anchor == "end" else y - 7  # the edge falls to the right
        labels.append((x, _free_height(x, max(beside, TOP - 2), labels)))
        shapes.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{told}</title></circle>'
            f'<text class="name" x="{x + shift:.1f}" y="{labels[-1][1]:.1f}" style="text-anchor: {anchor}">'
            f"{escape(name)}</text>"
        )
    return shapes


def _free_height(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """Where a label fits that would begin at ``y``: below those of points that lie as good as in one place."""
    while any(abs(x - other) < LABEL_WIDTH and abs(y - height) < LABEL_HEIGHT for other, height in taken):
        y += LABEL_HEIGHT
    return y


def _axis_names(measure: str, zh: bool) -> list[str]:
    task, kept, edge = (escape(WORDS[key][zh]) for key in ("task_axis", f"{measure}_axis", "edge_line"))
    right, floor = WIDTH - RIGHT, HEIGHT - 6
    return [
        f'<text class="axis" x="{LEFT}" y="11" style="text-anchor: start">↑ {task}</text>',
        f'<text class="axis" x="{right}" y="{floor}" style="text-anchor: end">{kept} →</text>',
        f'<polyline class="edge" points="{LEFT},{floor - 4} {LEFT + 24},{floor - 4}"/>',
        f'<text class="axis" x="{LEFT + 30}" y="{floor}" style="text-anchor: start">{edge}</text>',
    ]


def _ticks(across: _Axis, up: _Axis) -> list[str]:
    shapes = []
    for y, text in up.ticks():
        shapes.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3:.1f}" style="text-anchor: end">{text}</text>')
    anchors = ("start", "middle", "end")
    for (x, text), anchor in zip(across.ticks(), anchors, strict=True):
        shapes.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" style="text-anchor: {anchor}">{text}</text>'
        )
    return shapes
