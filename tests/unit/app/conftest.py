"""What tests of tabs share: somewhere for components to be, and a request in a language."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import gradio as gr
import pytest


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
