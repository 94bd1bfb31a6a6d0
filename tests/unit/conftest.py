"""What tests of the page's parts share: somewhere for components to be, and what visitors were told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # tests of the model do without Gradio
    import gradio as gr


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[gr.Blocks]:
    """Somewhere for components to be. Gradio opens event loops for it and leaves them open."""
    import gradio as gr

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
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page told in passing."""
    import gradio as gr

    sentences: list[str] = []
    monkeypatch.setattr(gr, "Warning", sentences.append)
    monkeypatch.setattr(gr, "Info", sentences.append)
    return sentences
