"""Parts of Compare without the rest of the page: a stage with two panes, in a page that nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.chat.conversation import PANES
from app.tabs.comparing.stage import Stage
from app.tabs.panes import build_pane
from app.text.languages import LANGUAGE_COOKIE


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[gr.Blocks]:
    """Somewhere for components to be. Gradio opens event loops for it and leaves them open."""
    loops: list[asyncio.AbstractEventLoop] = []
    make_loop = asyncio.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loops.append(make_loop())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", new_event_loop)
    with gr.Blocks() as blocks:
        yield blocks
    asyncio.set_event_loop(None)
    for loop in loops:
        loop.close()


@pytest.fixture
def stage(page: gr.Blocks) -> Stage:
    stage = Stage()
    stage.panes = {name: build_pane(name) for name in PANES}
    return stage


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a visitor was told in passing."""
    sentences: list[str] = []
    monkeypatch.setattr(gr, "Warning", sentences.append)
    monkeypatch.setattr(gr, "Info", sentences.append)
    return sentences


@pytest.fixture
def request_in() -> Any:
    """A request in a language."""
    return lambda language="en": SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})
