"""Several values of a few settings as several runs: every combination is one.

Knows settings and how people write lists. Starts nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

from chatglm2.errors import RunError
from training.settings.train import TrainingSettings

MOST_RUNS = 16
# Those that a sweep goes through, in the order in which a run's name has them.
SWEPT = ("pre_seq_len", "learning_rate", "max_steps")


def combinations(lists: Mapping[str, str]) -> list[dict[str, str]]:
    """Every combination of the values in ``lists``, by setting, each list with commas or blanks between its values.

    A setting whose list is empty is left out.

    Raises:
        RunError: there are fewer than two, or more than `MOST_RUNS`.
    """
    values = {name: read_list(text) for name, text in lists.items() if read_list(text)}
    count = 1
    for found in values.values():
        count *= len(found)
    if count < 2:
        raise RunError(
            "Write at least two values of a setting, with commas between them, such as 8, 16, 32.",
            "请至少为一项设置填写两个值，用逗号分隔，例如 8, 16, 32。",
        )
    if count > MOST_RUNS:
        counts = " × ".join(str(len(found)) for found in values.values())
        raise RunError(
            f"At most {MOST_RUNS} runs are made at once; these are {counts} = {count}. Take some values out.",
            f"一次最多创建 {MOST_RUNS} 次训练，当前为 {counts} = {count} 次，请减少几个值。",
        )
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def read_list(text: str) -> list[str]:
    """The values that somebody wrote, each once; Chinese commas separate, too."""
    return list(dict.fromkeys(part for part in re.split(r"[\s,，;；、]+", text) if part))


def distinct(settings: Iterable[TrainingSettings]) -> list[TrainingSettings]:
    """Settings that were written in several ways, once: 0.1 and 0.10 are one rate."""
    return list({brief(item): item for item in settings}.values())


def brief(settings: TrainingSettings) -> str:
    """What a sweep goes through, as a part of a run's name: prefix length, learning rate, steps."""
    length = "full" if settings.pre_seq_len is None else f"p{settings.pre_seq_len}"
    return f"{length}-lr{settings.learning_rate:.12g}-s{settings.max_steps}"
