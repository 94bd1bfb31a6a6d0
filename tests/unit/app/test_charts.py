"""Figures show what the numbers say, the unwelcome ones too."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from app.views.charts import MAX_POINTS, MAX_READINGS, Names, Point, histogram, line_chart, nice_ticks, smoothed, thin

NAMES = Names("step", "value")


def points(*values: float) -> list[Point]:
    return [Point(step, value) for step, value in enumerate(values, start=1)]


def curve(svg: str) -> list[tuple[float, float]]:
    match = re.search(r'<polyline[^>]*points="([^"]*)"', svg)
    assert match
    return [tuple(map(float, pair.split(","))) for pair in match.group(1).split()]  # type: ignore[misc]


def test_a_loss_of_zero_is_drawn_on_the_axis() -> None:
    svg = line_chart(points(2.0, 1.0, 0.0), 10, "loss", "empty", names=NAMES)
    assert curve(svg)[-1][1] == 214  # the axis: height less the bottom margin


def test_the_axis_shows_the_curve_and_starts_at_zero_only_where_it_is_reached() -> None:
    (_, high), (_, low) = curve(line_chart(points(7.9, 7.8), 10, "loss", "empty", names=NAMES))
    assert low - high > 100  # more than half of the figure
    assert ">0</text>" in line_chart(points(7.9, 0.0), 10, "loss", "empty", names=NAMES)


def test_a_smoothed_line_runs_through_the_points_it_is_drawn_over() -> None:
    noisy = [Point(step, 5 + (-1) ** step) for step in range(1, 201)]
    line = smoothed(noisy)
    assert line[0] == noisy[0]
    assert all(abs(point.value - 5) < 0.2 for point in line[50:150])
    falling = points(*range(200, 0, -1))
    assert [point.value for point in smoothed(falling)] == pytest.approx([point.value for point in falling])
    assert [point.value for point in smoothed(points(3.0, 3.0, 3.0))] == pytest.approx([3.0] * 3)
    spiked = smoothed([Point(0, 1e38), *points(*[2.0] * 200)])
    assert spiked[-50].value == 2.0  # far from a spike nothing of it is left
    svg = line_chart(noisy, 200, "loss", "empty", names=NAMES, smooth=True)
    assert len(ElementTree.fromstring(svg).findall(".//g[@class='points']/circle")) == 200


def test_every_place_across_the_figure_reads_one_value() -> None:
    many = [Point(step, 1 + 0.1 * math.sin(step)) for step in range(1, 1001)]
    stripes = ElementTree.fromstring(line_chart(many, 1000, "loss", "empty", names=NAMES)).findall(".//g/rect")
    assert 2 <= len(stripes) <= MAX_READINGS
    ends = [(float(one.get("x", "nan")), float(one.get("width", "nan"))) for one in stripes]
    assert ends[0][0] == 60 and sum(ends[-1]) == pytest.approx(626, abs=0.2)
    for (x, width), (following, _) in itertools.pairwise(ends):
        assert x + width == pytest.approx(following, abs=0.2)


def test_a_reading_names_its_axes() -> None:
    svg = line_chart(points(2.5), 4, "loss", "empty", names=Names("a<b", "loss"))
    said = [text.text for text in ElementTree.fromstring(svg).findall(".//g[@class='reading']/text")]
    assert said == ["a<b 1 · loss 2.5"]


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert len(curve(line_chart(points(2.0, math.nan, math.inf, 1.0), 4, "loss", "empty", names=NAMES))) == 2


def test_nothing_to_draw_is_said() -> None:
    assert "empty" in line_chart([], 0, "loss", "empty", names=NAMES)
    assert "empty" in line_chart(points(math.nan), 1, "loss", "empty", names=NAMES)


def test_the_axis_reaches_the_end_of_the_run() -> None:
    first, last = curve(line_chart(points(3.0, 2.0), 100, "loss", "empty", names=NAMES))
    assert last[0] < 80 and first[0] < last[0]


def test_a_long_curve_is_thinned_and_keeps_its_extremes() -> None:
    many = [Point(step, 1 + 0.1 * math.sin(step)) for step in range(50_000)]
    many[31_234] = Point(31_234, 0.0)
    many[40_001] = Point(40_001, 99.0)
    kept = thin(many)
    assert len(kept) <= MAX_POINTS
    assert {many[31_234], many[40_001]} <= set(kept)
    assert [point.step for point in kept] == sorted(point.step for point in kept)


@pytest.mark.parametrize("low, high", [(0, 0), (0, 1e-9), (0, 7.68), (0, 1e6), (-3, 2)])
def test_ticks_are_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_bars_beyond_the_limit_stand_out() -> None:
    svg = histogram((0, 10, 20, 30), (5, 3, 1), 20, "length")
    assert svg.count('class="within"') == 2
    assert svg.count('class="over"') == 1
    assert 'class="limit"' in svg


@pytest.mark.parametrize(
    "svg", [line_chart(points(1, 2), 2, "a<b", "", names=NAMES), histogram((0, 1), (1,), 1, 'a"b')]
)
def test_figures_are_well_formed(svg: str) -> None:
    ElementTree.fromstring(svg)


def test_a_second_curve_shares_the_axes_of_the_first() -> None:
    svg = line_chart(points(2.0, 1.0), 4, "loss", "empty", measured=[Point(2, 8.0), Point(4, math.nan)], names=NAMES)
    dots = ElementTree.fromstring(svg).findall(".//g[@class='measured']/circle")
    assert len(dots) == 1
    y = float(dots[0].get("cy", "nan"))
    assert 28 <= y < min(height for _, height in curve(svg))  # above the curve, and inside the figure
    assert 'class="measured"' not in line_chart(points(2.0, 1.0), 4, "loss", "empty", names=NAMES)


def test_a_ceiling_keeps_a_share_in_proportion() -> None:
    (_, top), (_, below) = curve(line_chart(points(100.0, 90.0), 4, "kept", "empty", ceiling=100, names=NAMES))
    assert below - top == pytest.approx(186 / 10, abs=0.2)
    tall, flat = (
        line_chart(points(50.0), 4, "kept", "empty", ceiling=100, height=height, names=NAMES) for height in (240, 150)
    )
    assert curve(flat)[0][1] < curve(tall)[0][1]
