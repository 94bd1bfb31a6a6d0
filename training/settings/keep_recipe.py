"""What ``--keep`` means in numbers; docs/training.md has what they were chosen by.

Knows numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_WEIGHT = 10.0
# The weight grows faster than ``--keep``: 0.5 counts the general rows three times, 1 ten times.
GROWTH = 1.75
LEAST_ROWS, MOST_ROWS = 8, 32
# Where nobody says how many steps: what is kept above half of it needs more of them more than it needs more weight.
USUAL_STEPS, MOST_STEPS = 100, 240
# Distinct questions; more of them cost time before the first step and change little.
MOST_QUESTIONS = 512
LONGEST_QUESTION_TOKENS, ANSWER_TOKENS = 128, 64
# A general row has at most this many tokens, [gMASK], sop, the round's frame and the end counted; and usually so many.
LONGEST_ROW_TOKENS, USUAL_ROW_TOKENS = LONGEST_QUESTION_TOKENS + ANSWER_TOKENS + 20, 80


@dataclass(frozen=True)
class KeepRecipe:
    """How a run is kept to its base.

    Attributes:
        weight: what a nat of divergence from the base counts beside a nat of the task's loss.
        rows: general rows a step, of all processes together.
        questions: distinct ones at most.
    """

    weight: float
    rows: int = LEAST_ROWS
    questions: int = MOST_QUESTIONS


def recipe_for(keep: float) -> KeepRecipe | None:
    """The recipe for a ``keep`` from 0 to 1; None where nothing is kept."""
    if keep == 0:
        return None
    return KeepRecipe(MOST_WEIGHT * keep**GROWTH, max(LEAST_ROWS, round(MOST_ROWS * keep**2)))


def steps_for(keep: float) -> int:
    """How many steps a run takes for a ``keep`` from 0 to 1, where neither its user nor a preset says."""
    return round(USUAL_STEPS + (MOST_STEPS - USUAL_STEPS) * max(2 * keep - 1, 0))
