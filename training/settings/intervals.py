"""How often something happens, as transformers lets people say it: in steps, or below 1 as a share of all steps.

Knows numbers only; what happens then is others'.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from chatglm2.errors import RunError

INTERVALS = ("logging_steps", "save_steps", "eval_steps")


def whole_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose intervals are whole numbers of steps, shares rounded up as transformers does.

    Raises:
        RunError: for a share of a number of steps that is not known yet.
    """
    whole = dict(values)
    for name in INTERVALS:
        with contextlib.suppress(TypeError, ValueError):  # what is no number is refused by its own check
            share = float(values.get(name, 1))
            if 0 < share < 1:
                whole[name] = math.ceil(share * _total_steps(values, name))
    return whole


def _total_steps(values: Mapping[str, Any], name: str) -> int:
    total = int(float(values["max_steps"]))
    if total < 1:
        raise RunError(
            f"--{name} {values[name]} is a share of all steps: say how many they are by --max_steps, or give --{name} "
            "in steps.",
            f"--{name} {values[name]} 表示占总步数的比例：请用 --max_steps 指定总步数，或直接以步数填写 --{name}。",
        )
    return total
