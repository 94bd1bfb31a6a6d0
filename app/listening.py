"""How the page's events are listened to: three kinds, so that every handler says which it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Quick answers: beside the queue, without a spinner.
QUIET: Mapping[str, Any] = MappingProxyType(
    {"queue": False, "show_progress": "hidden", "api_visibility": "private"},
)
# Work of a second or so, such as reading a data file.
WORKING: Mapping[str, Any] = MappingProxyType({"show_progress": "minimal", "api_visibility": "private"})
# Running answers: the engine's slots decide how many at a time, not Gradio.
STREAMING: Mapping[str, Any] = MappingProxyType(
    {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None},
)
