"""A field for pinned prompts, one a line: before a run starts, and while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from app.tabs.translations import word

LINE_BREAK = "\\n"  # how a prompt of several lines is typed on one


def build_prompts(prompts: Sequence[str], info: str, elem_id: str) -> gr.Textbox:
    """The field, with what it holds at first; ``info`` is the key of its explanation."""
    return gr.Textbox(
        as_lines(prompts), label=word("pinned_prompts"), info=word(info), lines=3, max_lines=5, elem_id=elem_id
    )


def as_lines(prompts: Sequence[str]) -> str:
    """Prompts as they are typed, one a line."""
    return "\n".join(prompt.replace("\n", LINE_BREAK) for prompt in prompts)


def from_lines(text: str | None) -> list[str]:
    """The prompts that were typed, one a line."""
    return [line.replace(LINE_BREAK, "\n") for line in (text or "").splitlines()]
