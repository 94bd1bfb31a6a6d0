"""How sure a figure is that few questions gave: 95 % intervals of a share and of a mean. Pure.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); Student, "The
probable error of a mean", Biometrika 6 (1908).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CONFIDENCE = 0.95
NORMAL_QUANTILE = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
GRID = 20_000
# What can be told and drawn; beyond, a number in a file is a mistake.
Figure = Annotated[float, Field(ge=-1e9, le=1e9)]


class Interval(BaseModel):
    """A figure, and between what it lies with 95 % confidence; the bounds are None where one value tells nothing."""

    model_config = ConfigDict(frozen=True)

    value: Figure
    low: Figure | None
    high: Figure | None


def share_interval(count: int, total: int) -> Interval:
    """The share ``count`` of ``total`` with its `wilson_interval`.

    Raises:
        ValueError: for a share of nothing.
    """
    low, high = wilson_interval(count, total)
    return Interval(value=count / total, low=low, high=high)


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's interval of ``count`` of ``total``, from 0 to 1; never empty, and right for shares near 0 and 1.

    Raises:
        ValueError: for a share of nothing.
    """
    if total <= 0:
        raise ValueError(f"expected a share of something, found {count} of {total}")
    z, share = NORMAL_QUANTILE, count / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mean_interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """Student's interval of the mean of independent ``values``, which lie between ``least`` and ``most``.

    Raises:
        ValueError: for the mean of nothing.
    """
    if not values:
        raise ValueError("expected at least one value, found none")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(value=mean, low=None, high=None)
    reach = student_quantile(len(values) - 1) * statistics.stdev(values, mean) / math.sqrt(len(values))
    return Interval(value=mean, low=max(least, mean - reach), high=min(most, mean + reach))


@cache
def student_quantile(freedom: int) -> float:
    """How many standard errors to each side hold 95 % of Student's distribution.

    Its density over the angle a, with t = sqrt(freedom) tan a, is as cos(a) ** (freedom - 1), which a sum over a grid
    measures: to five digits and more.
    """
    step = math.pi / 2 / GRID
    sums = list(accumulate(math.cos((place + 0.5) * step) ** (freedom - 1) for place in range(GRID)))
    wanted = CONFIDENCE * sums[-1]
    place = next(place for place, reached in enumerate(sums) if reached >= wanted)
    before = sums[place - 1] if place else 0.0
    angle = (place + (wanted - before) / (sums[place] - before)) * step
    return math.sqrt(freedom) * math.tan(angle)
