"""How the page's events are listened to, and how a handler tells a person something in passing."""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from app.text.languages import Speech
from chatglm2.errors import ChatGLMError

# Beside the queue, without a spinner: what the clock asks for. Messages cannot be shown from here.
QUIET: Mapping[str, Any] = MappingProxyType({"queue": False, "show_progress": "hidden", "api_visibility": "private"})
# What a person asks for: it may stream and say something. The engine's slots limit how much runs, not the queue.
ASKED: Mapping[str, Any] = MappingProxyType(
    {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
)
# The same for work of a second or so, such as reading a data file.
WORKING: Mapping[str, Any] = MappingProxyType({"show_progress": "minimal", "api_visibility": "private"})


def say(sentence: str) -> None:
    """Shows a sentence for a moment. Gradio renders HTML there, and sentences quote what users typed."""
    gr.Info(html.escape(sentence))


def say_problem(error: ChatGLMError, speech: Speech) -> None:
    """Shows what went wrong and what to do about it."""
    warn(error.localized(speech.language))


def warn(sentence: str) -> None:
    """Shows a sentence about what went wrong."""
    gr.Warning(html.escape(sentence))
