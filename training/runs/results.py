"""The original's files of results: ``train_results.json`` and its like, each a part of ``all_results.json``.

Knows names and layout; does not know what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.runs.storage import read_json

ALL_RESULTS_FILE = "all_results.json"


def result_files(directory: Path, split: str, found: Mapping[str, Any]) -> dict[Path, str]:
    """What to write for the results of ``split`` (``train``, ``eval`` or ``predict``), by file.

    The file that gathers all keeps what other parts left in it.
    """
    gathered = directory / ALL_RESULTS_FILE
    return {
        directory / f"{split}_results.json": as_json(found, sort_keys=True),
        gathered: as_json({**_earlier_results(gathered), **found}, sort_keys=True),
    }


def as_json(content: Mapping[str, Any], sort_keys: bool = False) -> str:
    """JSON as the original's files have it."""
    return json.dumps(content, ensure_ascii=False, indent=4, sort_keys=sort_keys) + "\n"


def _earlier_results(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
