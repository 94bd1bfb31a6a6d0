"""Figures as inline SVG, which re-theme with the page and need no script.

Knows numbers and how to draw them. Knows neither runs nor Gradio; colours come from the stylesheet's classes.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

MAX_POINTS = 400
# A reading costs five elements, and a page of 1280 pixels shows a chart of 600.
MAX_READINGS = 150
# A smoothed line is a mean over about this part of its points.
SMOOTHED_PART = 0.1
# Points at each side, so that a curve of 50,000 is smoothed in hundredths of a second.
MOST_REACH = 25
# No loss in a float32 is larger.
UNDRAWABLE = 1e39
WIDTH, HEIGHT = 640, 260
OVERLAID_HEIGHT = 220
# A curve of few points shows where they are.
MOST_DOTS = 30
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 400, 96
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 28, 46


@dataclass(frozen=True)
class Point:
    step: float
    value: float


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most about ``limit`` points: of each stretch the lowest and the highest, so that no spike or zero is lost."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        extremes = {min(part, key=lambda point: point.value), max(part, key=lambda point: point.value)}
        kept.extend(sorted(extremes, key=lambda point: point.step))
    return kept


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred moving mean, which does not lag behind a falling curve; at both ends it narrows down to the point."""
    values = [point.value for point in points]
    reach = min(round(SMOOTHED_PART * len(points) / 2), MOST_REACH)
    line = []
    for index, point in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        line.append(Point(point.step, sum(values[index - near : index + near + 1]) / (2 * near + 1)))
    return line


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover ``low`` to ``high``."""
    if high <= low:
        high = low + 1
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def format_number(value: float) -> str:
    """Four significant digits; very small and very large as powers of ten."""
    return f"{value:.4g}"


@dataclass(frozen=True)
class Names:
    """What the axes show."""

    across: str
    up: str


@dataclass(frozen=True)
class Axes:
    """Where steps and values lie in a figure of ``height``; ticks reach from end to end."""

    steps: list[float]
    values: list[float]
    height: int

    def place(self, point: Point) -> tuple[float, float]:
        across = (point.step - self.steps[0]) / (self.steps[-1] - self.steps[0])
        up = (point.value - self.values[0]) / (self.values[-1] - self.values[0])
        x = LEFT + across * (WIDTH - LEFT - RIGHT)
        y = self.height - BOTTOM - up * (self.height - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    def line(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x},{y}" for x, y in map(self.place, points))

    def dots(self, points: Sequence[Point], radius: float) -> str:
        """A circle a point, which says its step and value when the mouse is on it."""
        return "".join(
            f'<circle cx="{x}" cy="{y}" r="{radius}"><title>{step:g}: {format_number(value)}</title></circle>'
            for step, value, (x, y) in ((point.step, point.value, self.place(point)) for point in points)
        )

    def readings(self, points: Sequence[Point], names: Names) -> str:
        """A stripe a point, from halfway before to halfway behind it: under the mouse it shows the point's values."""
        places = [self.place(point) for point in points]
        middles = [(left + right) / 2 for (left, _), (right, _) in itertools.pairwise(places)]
        edges = [float(LEFT), *middles, float(WIDTH - RIGHT)]
        return "".join(
            self._reading(point, place, (start, end), names)
            for point, place, start, end in zip(points, places, edges, edges[1:], strict=False)
        )

    def _reading(self, point: Point, place: tuple[float, float], stripe: tuple[float, float], names: Names) -> str:
        (x, y), (start, end), floor = place, stripe, self.height - BOTTOM
        said = html.escape(f"{names.across} {point.step:g} · {names.up} {format_number(point.value)}")
        return (
            f'<g class="reading"><rect x="{start:.1f}" y="{TOP}" width="{max(end - start, 0):.1f}" '
            f'height="{floor - TOP}"/><line x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}"/>'
            f'<circle cx="{x}" cy="{y}" r="4"/><text x="{WIDTH - RIGHT}" y="16" text-anchor="end">{said}</text></g>'
        )

    def drawn(self) -> str:
        start, floor = self.steps[0], self.values[0]
        grid = "".join(_value_tick(self.place(Point(start, tick))[1], tick) for tick in self.values)
        return grid + "".join(
            _step_tick(
                self.place(Point(tick, floor))[0], self.height - BOTTOM + 18, tick, is_last=tick == self.steps[-1]
            )
            for tick in self.steps
        )


def line_chart(
    points: Sequence[Point],
    total_steps: float,
    label: str,
    empty: str,
    *,
    names: Names,
    measured: Sequence[Point] = (),
    smooth: bool = False,
    ceiling: float | None = None,
    height: int = HEIGHT,
) -> Markup:
    """A curve over steps. The value axis shows where the curve is; it starts at 0 where that is
    reached, so that a loss of exactly 0, the sign of a collapsed prefix, is seen to lie on it.

    Values that are not finite, or as good as that, cannot be drawn and are left out; the log names them.

    Args:
        points: the curve.
        total_steps: where the axis ends.
        label: what it shows, for screen readers.
        empty: what to say where there is nothing to draw.
        names: of the axes.
        measured: a second, dotted curve with the same axes, of points that are far apart.
        smooth: draws the points as dots, and their moving mean as the line.
        ceiling: the value axis runs from 0 to at least this, for what is a share of something.
        height: of the figure.
    """
    finite = [point for point in points if abs(point.value) < UNDRAWABLE]
    others = [point for point in measured if abs(point.value) < UNDRAWABLE]
    if not finite:
        return empty_chart(empty)
    heights = [point.value for point in (*finite, *others)]
    bounds = [*heights, *([] if ceiling is None else [0.0, ceiling])]
    axes = Axes(
        steps=nice_ticks(0, max(total_steps, finite[-1].step), 6),
        values=nice_ticks(min(bounds), max(bounds), 4 if height >= HEIGHT else 2),
        height=height,
    )
    line = smoothed(finite) if smooth else finite
    dots = f'<g class="points">{axes.dots(thin(finite), radius=1.8)}</g>' if smooth else ""
    last_x, last_y = axes.place(line[-1])
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f'<g class="grid">{axes.drawn()}</g>{_axis_names(names, height)}{dots}'
        f'<polyline class="curve" points="{axes.line(thin(line))}"/><circle class="last" cx="{last_x}" '
        f'cy="{last_y}" r="3.5"/>{axes.readings(thin(finite, MAX_READINGS), names)}'
        f"{_dotted_curve(others, axes)}</svg>"
    )


def overlaid_chart(
    curves: Sequence[Sequence[Point]], label: str, *, names: Names, smooth: bool, height: int = OVERLAID_HEIGHT
) -> Markup:
    """Several curves in one figure, each in the colour of its place; one may be empty. Arguments as in `line_chart`."""
    drawable = [[point for point in points if abs(point.value) < UNDRAWABLE] for points in curves]
    points = [point for curve in drawable for point in curve]
    if not points:
        return Markup()
    values = [point.value for point in points]
    axes = Axes(
        steps=nice_ticks(0, max(point.step for point in points), 6),
        values=nice_ticks(min(values), max(values), 3),
        height=height,
    )
    lines = []
    for place, curve in reversed(list(enumerate(drawable))):  # the first lies on top
        if curve:
            line = thin(smoothed(curve) if smooth else curve)
            dots = axes.dots(line, 2.5) if len(line) <= MOST_DOTS else ""
            lines.append(f'<g class="series-{place}"><polyline points="{axes.line(line)}"/>{dots}</g>')
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f'<g class="grid">{axes.drawn()}</g>{_axis_names(names, height)}{"".join(lines)}</svg>'
    )


def empty_chart(reason: str) -> Markup:
    """What stands where a figure will be."""
    return Markup('<div class="chart-empty">{}</div>').format(reason)


def _axis_names(names: Names, height: int) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<text class="axis-name" x="4" y="16">{html.escape(names.up)}</text><text class="axis-name" x="{middle}" '
        f'y="{height - 6}" text-anchor="middle">{html.escape(names.across)}</text>'
    )


def _dotted_curve(points: Sequence[Point], axes: Axes) -> str:
    if not points:
        return ""
    return f'<g class="measured"><polyline points="{axes.line(points)}"/>{axes.dots(points, radius=3.5)}</g>'


def _value_tick(y: float, value: float) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{format_number(value)}</text>'
    )


def _step_tick(x: float, y: float, value: float, *, is_last: bool) -> str:
    """The last one's number ends at the margin, where large letters would be cut off."""
    x, anchor = (x + RIGHT, "end") if is_last else (x, "middle")
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{value:g}</text>'


def histogram(edges: Sequence[int], counts: Sequence[int], limit: int, label: str) -> Markup:
    """How long texts are, in tokens: bin i holds what is at least ``edges[i]`` and below ``edges[i + 1]`` long.

    What lies beyond ``limit`` stands out; the limit itself is drawn where it falls among the texts.
    """
    if not any(counts):
        return Markup()
    first, last = edges[0], max(edges[-1], 1)
    base, tallest = HISTOGRAM_HEIGHT - 18, max(counts)
    across, up = (HISTOGRAM_WIDTH - 2 * RIGHT) / (last - first), (base - TOP) / tallest
    bars = "".join(
        f'<rect class="{"over" if low >= limit else "within"}" x="{RIGHT + (low - first) * across + 0.5:.1f}" '
        f'y="{base - max(count * up, 1):.1f}" width="{max((high - low) * across - 1, 1):.1f}" '
        f'height="{max(count * up, 1):.1f}"><title>{low}–{high - 1}: {count}</title></rect>'
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    )
    if first <= limit <= last:
        x = RIGHT + (limit - first) * across
        bars += f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{base}"/>'
    ends = f'<text x="{RIGHT}" y="{HISTOGRAM_HEIGHT - 4}">{first}</text>'
    ends += f'<text x="{HISTOGRAM_WIDTH - RIGHT}" y="{HISTOGRAM_HEIGHT - 4}" text-anchor="end">{last}</text>'
    box = f"0 0 {HISTOGRAM_WIDTH} {HISTOGRAM_HEIGHT}"
    head = f'<svg class="histogram" viewBox="{box}" role="img" aria-label="{html.escape(label)}">'
    return Markup(f"{head}{bars}{ends}</svg>")
