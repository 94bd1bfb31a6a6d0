"""What Compare consists of: a pane with its model, its answers and its mix, and the settings that both panes share.

Builds components; handles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.chat.sources import BASE
from app.tabs.mixing import Mixer
from app.tabs.translations import word
from app.views.rendering import LATEX_DELIMITERS


@dataclass(frozen=True)
class Pane:
    """One pane's components."""

    name: str
    choice: gr.Dropdown
    head: gr.HTML
    chat: gr.Chatbot
    facts: gr.HTML
    mixer: Mixer


def build_pane(name: str) -> Pane:
    """A pane's components, in their order on the page."""
    with gr.Column(elem_classes="pane", min_width=300):
        choice = gr.Dropdown(
            choices=[("…", BASE)],
            value=BASE,
            label=word(f"{name}_model"),
            show_label=False,
            container=False,
            filterable=False,
            elem_id=f"{name}-model",
        )
        head = gr.HTML(elem_id=f"{name}-head")
        chat = gr.Chatbot(
            show_label=False,
            container=False,
            elem_id=f"{name}-chat",
            height="max(260px, calc(100dvh - 440px))",
            layout="bubble",
            editable="all",
            buttons=["copy"],
            feedback_options=["Like"],
            latex_delimiters=LATEX_DELIMITERS,
            allow_tags=False,
            autoscroll=False,  # compare.js follows an answer only where its reader does
            placeholder=word("chat_empty"),
        )
        facts = gr.HTML(elem_id=f"{name}-facts")
        mixer = Mixer(name)
    return Pane(name, choice, head, chat, facts, mixer)


def build_sampling() -> dict[str, Any]:
    """How both panes choose their words: a component a setting, by name."""
    with gr.Accordion(word("sampling"), open=False, elem_id="sampling"):
        with gr.Row():
            sliders = {
                name: gr.Slider(low, high, value, step=step, label=word(name), info=word(f"{name}_help"), min_width=220)
                for name, low, high, value, step in (
                    ("temperature", 0, 2, 0.8, 0.05),
                    ("top_p", 0.05, 1, 0.8, 0.05),
                    ("top_k", 0, 200, 50, 1),
                    ("repetition_penalty", 0.8, 2, 1.0, 0.05),
                    ("max_new_tokens", 16, 2048, 512, 16),
                )
            }
        with gr.Row():
            seed = gr.Textbox("", label=word("seed"), info=word("seed_help"), max_lines=1, elem_id="seed")
            same = gr.Checkbox(True, label=word("same_seed"), info=word("same_seed_help"))
            remember = gr.Checkbox(True, label=word("remember"), info=word("remember_help"))
    return {**sliders, "seed": seed, "same_seed": same, "remember": remember}
