"""The original's files of results: ``train_results.json`` and its like, each a part of ``all_results.json``.

Knows names and layout; does not know what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training.runs.storage import changing, read_json, write_together

ALL_RESULTS_FILE = "all_results.json"


def write_results(
    directory: Path, split: str, found: Mapping[str, Any], others: Mapping[Path, str] = MappingProxyType({})
) -> None:
    """Write the results of ``split`` (``train``, ``eval`` or ``predict``), and other files that belong to them.

    The file that gathers all keeps what other parts left in it.

    Raises:
        OSError: they cannot be written; earlier ones are as they were.
        RunError: another process keeps changing them.
    """
    gathered = directory / ALL_RESULTS_FILE
    with changing(gathered):
        write_together(
            {
                **others,
                directory / f"{split}_results.json": as_json(found, sort_keys=True),
                gathered: as_json({**_earlier_results(gathered), **found}, sort_keys=True),
            }
        )


def as_json(content: Mapping[str, Any], sort_keys: bool = False) -> str:
    """JSON as the original's files have it."""
    return json.dumps(content, ensure_ascii=False, indent=4, sort_keys=sort_keys) + "\n"


def _earlier_results(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
