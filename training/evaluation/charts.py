"""The report's two figures as inline SVG: how scores are spread, and how many rows a prefix made better or worse.

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
