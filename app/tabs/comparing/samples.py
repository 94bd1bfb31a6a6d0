"""Several answers of one model to the last question, side by side: how much of an answer is chance."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import MOST_SAMPLES, PANES, Conversation
from app.tabs.comparing.stage import Updates
from app.tabs.translations import word
from app.text.languages import Speech
from app.views.comparing.samples import samples_html


class Samples:
    """What asks for them, in a drawer, and where they are shown."""

    def build_form(self) -> None:
        """Which pane's model is asked, and how often, in whatever is being built."""
        with gr.Column(elem_id="sample-form"):
            self.pane = gr.Radio(
                [(word(f"sample_{pane}"), pane) for pane in PANES],
                value="right",
                label=word("samples"),
                info=word("samples_help"),
                elem_id="sample-pane",
            )
            self.count = gr.Radio(
                [(str(count), count) for count in range(2, MOST_SAMPLES + 1)],
                value=3,
                label=word("sample_count"),
                show_label=False,
                elem_id="sample-count",
            )
            self.ask = gr.Button(word("sample_ask"), size="sm", min_width=90, elem_id="sample-ask")

    def build_answers(self) -> None:
        """Where they are shown."""
        self.answers = gr.HTML(elem_id="samples")

    @property
    def outputs(self) -> list[Any]:
        return [self.answers]

    def show(self, conversation: Conversation, speech: Speech) -> Updates:
        """Those of the last question."""
        return {self.answers: samples_html(conversation.rounds[-1].samples if conversation.rounds else [], speech)}
