"""The report's figures as inline SVG: how scores are spread, what a prefix made better or worse, and its strengths.

Pure. Colours come from the stylesheet's classes, so that they follow the reader's light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BINS = 10
WIDTH, HEIGHT = 560, 150
BASE_LINE, TOP = 128, 16
BAR_HEIGHT = 14


def score_histogram(columns: Sequence[Sequence[float]], classes: Sequence[str], label: str) -> str:
    """How many rows lie in each tenth of 0 to 100, a bar for each column beside the other; ``label`` is HTML."""
    counts = [_count(values) for values in columns]
    highest = max(max(column) for column in counts) or 1
    step = WIDTH / BINS
    width = (step - 8) / len(columns)
    shapes = []
    for place, (column, name) in enumerate(zip(counts, classes, strict=True)):
        for index, count in enumerate(column):
            if not count:
                continue
            height = max((BASE_LINE - TOP) * count / highest, 1)
            x = index * step + 4 + place * width
            shapes.append(
                f'<rect class="{name}" x="{x:.1f}" y="{BASE_LINE - height:.1f}" width="{width - 1:.1f}" '
                f'height="{height:.1f}"/>'
                f'<text x="{x + width / 2:.1f}" y="{BASE_LINE - height - 3:.1f}">{count}</text>'
            )
    ticks = "".join(
        f'<text class="tick" x="{min(max(index * step, 8), WIDTH - 10):.1f}" y="{BASE_LINE + 14}">{index * 10}</text>'
        for index in range(BINS + 1)
    )
    axis = f'<line x1="0" y1="{BASE_LINE}" x2="{WIDTH}" y2="{BASE_LINE}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{axis}{"".join(shapes)}{ticks}</svg>'


def _count(values: Sequence[float]) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(int(value * BINS / 100), BINS - 1)] += 1
    return counts


def difference_bar(counts: Mapping[str, int]) -> str:
    """How many rows are better, the same and worse, as parts of one bar."""
    total, x = max(sum(counts.values()), 1), 0.0
    parts = []
    for name, count in counts.items():
        width = WIDTH * count / total
        parts.append(f'<rect class="{name}" x="{x:.1f}" y="0" width="{width:.1f}" height="{BAR_HEIGHT}"/>')
        x += width
    return f'<svg viewBox="0 0 {WIDTH} {BAR_HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'


def strength_curves(
    strengths: Sequence[float], curves: Mapping[str, Sequence[float]], marked: float, label: str
) -> str:
    """Curves by class, 0 to 100, over strengths; one strength is marked. ``label`` is HTML."""
    low, high = min(strengths), max(strengths)

    def x(strength: float) -> float:
        return 30 + (WIDTH - 45) * (strength - low) / max(high - low, 1e-9)

    def y(value: float) -> float:
        return BASE_LINE - (BASE_LINE - TOP) * value / 100

    shapes = [
        f'<line x1="30" y1="{y(value):.1f}" x2="{WIDTH}" y2="{y(value):.1f}"/>'
        f'<text class="tick" x="14" y="{y(value) + 3:.1f}">{value}</text>'
        for value in (0, 50, 100)
    ]
    shapes.append(f'<line class="marked" x1="{x(marked):.1f}" y1="{TOP}" x2="{x(marked):.1f}" y2="{BASE_LINE}"/>')
    shapes += [f'<text class="tick" x="{x(value):.1f}" y="{BASE_LINE + 14}">{value:g}</text>' for value in strengths]
    for name, values in curves.items():
        places = [(f"{x(strength):.1f}", f"{y(value):.1f}") for strength, value in zip(strengths, values, strict=True)]
        line = " ".join(",".join(place) for place in places)
        shapes.append(f'<polyline class="{name}" points="{line}"/>')
        shapes += [f'<circle class="{name}" cx="{across}" cy="{up}" r="3"/>' for across, up in places]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'
