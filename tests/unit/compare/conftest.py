"""Parts of Compare without the rest of the page: a stage with two panes, in a page that nobody serves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.chat.conversation import PANES
from app.tabs.comparing.stage import Stage
from app.tabs.panes import build_pane
from app.text.languages import LANGUAGE_COOKIE


@pytest.fixture
def stage(page: gr.Blocks) -> Stage:
    stage = Stage()
    stage.panes = {name: build_pane(name) for name in PANES}
    return stage


@pytest.fixture
def request_in() -> Any:
    """A request in a language."""
    return lambda language="en": SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})
