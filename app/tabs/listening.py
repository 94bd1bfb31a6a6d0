"""How the page's events are listened to, and how a handler tells a person something in passing."""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from app.text.languages import Speech
from app.training.form import problem_text
from chatglm2.errors import ChatGLMError

# Beside the queue, without a spinner: what the clock asks for. Messages cannot be shown from here.
QUIET: Mapping[str, Any] = MappingProxyType({"queue": False, "show_progress": "hidden", "api_visibility": "private"})


def _asked(group: str, limit: int, show_progress: str = "hidden") -> Mapping[str, Any]:
    """How to listen for what a person asks for; ``limit`` of a group run at a time, all others wait in line."""
    return MappingProxyType(
        {
            "show_progress": show_progress,
            "api_visibility": "private",
            "concurrency_id": group,
            "concurrency_limit": limit,
        }
    )


# Whatever runs holds one of the server's threads, an answer until its end. Together the groups are fewer than the
# threads, so that Stop, which is a group of its own, and the clock never wait for one.
THREADS = 128
CHATTING = _asked("chat", 64)  # the engine's slots decide how many are computed at a time
ASKED = _asked("brief", 12)
WORKING = _asked("work", 4, "minimal")  # a second or so, such as reading a data file
FETCHING = _asked("fetch", 2, "minimal")  # as long as a download takes
STOPPING = _asked("stop", 8)


def say(sentence: str) -> None:
    """Shows a sentence for a moment. Gradio renders HTML there, and sentences quote what users typed."""
    gr.Info(html.escape(sentence))


def say_problem(error: ChatGLMError, speech: Speech) -> None:
    """Shows what went wrong and what to do about it."""
    warn(problem_text(error, speech))


def warn(sentence: str) -> None:
    """Shows a sentence about what went wrong."""
    gr.Warning(html.escape(sentence))
