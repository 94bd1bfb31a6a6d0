"""Figures show what the numbers say, the unwelcome ones too."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from app.views.charts import MAX_POINTS, Point, histogram, line_chart, nice_ticks, thin


def points(*values: float) -> list[Point]:
    return [Point(step, value) for step, value in enumerate(values, start=1)]


def curve(svg: str) -> list[tuple[float, float]]:
    match = re.search(r'<polyline[^>]*points="([^"]*)"', svg)
    assert match
    return [tuple(map(float, pair.split(","))) for pair in match.group(1).split()]  # type: ignore[misc]


def test_a_loss_of_zero_is_drawn_on_the_axis() -> None:
    svg = line_chart(points(2.0, 1.0, 0.0), 10, "loss", "empty")
    assert curve(svg)[-1][1] == 210  # the axis: height less the bottom margin


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert len(curve(line_chart(points(2.0, math.nan, math.inf, 1.0), 4, "loss", "empty"))) == 2


def test_nothing_to_draw_is_said() -> None:
    assert "empty" in line_chart([], 0, "loss", "empty")
    assert "empty" in line_chart(points(math.nan), 1, "loss", "empty")


def test_the_axis_reaches_the_end_of_the_run() -> None:
    first, last = curve(line_chart(points(3.0, 2.0), 100, "loss", "empty"))
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


@pytest.mark.parametrize("svg", [line_chart(points(1, 2), 2, "a<b", ""), histogram((0, 1), (1,), 1, 'a"b')])
def test_figures_are_well_formed(svg: str) -> None:
    ElementTree.fromstring(svg)


def test_a_second_curve_shares_the_axes_of_the_first() -> None:
    svg = line_chart(points(2.0, 1.0), 4, "loss", "empty", measured=[Point(2, 8.0), Point(4, math.nan)])
    dots = ElementTree.fromstring(svg).findall(".//g[@class='measured']/circle")
    assert len(dots) == 1
    y = float(dots[0].get("cy", "nan"))
    assert 14 <= y < min(height for _, height in curve(svg))  # above the curve, and inside the figure
    assert 'class="measured"' not in line_chart(points(2.0, 1.0), 4, "loss", "empty")


def test_a_ceiling_keeps_a_share_in_proportion() -> None:
    (_, top), (_, below) = curve(line_chart(points(100.0, 90.0), 4, "kept", "empty", ceiling=100))
    assert below - top == pytest.approx(196 / 10, abs=0.2)
    tall, flat = (line_chart(points(50.0), 4, "kept", "empty", ceiling=100, height=height) for height in (240, 150))
    assert curve(flat)[0][1] < curve(tall)[0][1]
