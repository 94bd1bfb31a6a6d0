"""Prompts that somebody pinned to a run: answered at every checkpoint, so that one sees what the steps change.

A file of its own, as prompts may be pinned while the run trains. Knows the file; asks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel

from chatglm2.errors import RunError
from training.runs.layout import PINS_FILE
from training.runs.storage import explaining_storage_errors, read_json, write_atomically
from training.runs.store import Run

MOST_PINS = 5
LONGEST_PIN = 2000  # characters


class _Pins(BaseModel):
    prompts: list[str]


def read_pins(run: Run) -> list[str]:
    """The pinned prompts, in order; none where nobody pinned any."""
    try:
        return _Pins.model_validate(read_json(run.path / PINS_FILE)).prompts[:MOST_PINS]
    except (OSError, ValueError):
        return []


def write_pins(run: Run, prompts: Sequence[str]) -> None:
    """Pin these prompts in the place of others.

    Raises:
        RunError: they are too many or too long, or cannot be written.
    """
    pins = checked_pins(prompts)
    with explaining_storage_errors(run.path / PINS_FILE):
        write_atomically(run.path / PINS_FILE, json.dumps({"prompts": pins}, ensure_ascii=False, indent=2) + "\n")


def checked_pins(prompts: Sequence[str]) -> list[str]:
    """The prompts, each once, without those that are empty.

    Raises:
        RunError: they are too many or too long.
    """
    pins = list(dict.fromkeys(prompt.strip() for prompt in prompts if prompt.strip()))
    if len(pins) > MOST_PINS:
        raise RunError(
            f"At most {MOST_PINS} prompts can be pinned; found {len(pins)}. Take some out.",
            f"最多固定 {MOST_PINS} 条提示，当前为 {len(pins)} 条，请去掉几条。",
        )
    longest = max(map(len, pins), default=0)
    if longest > LONGEST_PIN:
        raise RunError(
            f"A pinned prompt has at most {LONGEST_PIN} characters; found {longest}. Shorten it.",
            f"固定的提示最多 {LONGEST_PIN} 个字符，当前为 {longest} 个，请缩短。",
        )
    return pins
