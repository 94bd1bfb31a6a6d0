"""The drawer with how answers are looked at: scrolled together, their differences marked.

What is chosen stays in the visitor's browser.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import Conversation, View
from app.tabs.access import open_to_all
from app.tabs.comparing.stage import Stage, Updates
from app.tabs.listening import ASKED, QUIET
from app.tabs.translations import speech_for, word

# What was kept, or what a first visitor gets; another value in the browser's store counts as none.
RESTORE = """(kept) => {
  const chosen = (name, otherwise) => (typeof kept?.[name] === "boolean" ? kept[name] : otherwise);
  window.scrollTogether(chosen("together", true));
  return [chosen("together", true), chosen("differences", false)];
}"""
KEEP = "(together, differences) => { window.scrollTogether(together); return { together, differences }; }"


class Looking:
    """A panel that a button opens; compare.js shows and hides it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.kept = gr.BrowserState({}, storage_key="chatglm-view", secret="chatglm")
        with gr.Column(elem_id="looking", elem_classes="drawer"):
            self.together = gr.Checkbox(
                True, label=word("scroll_together"), info=word("scroll_together_help"), elem_id="scroll-together"
            )
            self.differences = gr.Checkbox(
                False, label=word("show_differences"), info=word("show_differences_help"), elem_id="show-differences"
            )

    def bind(self, demo: gr.Blocks) -> None:
        """Connects everything to its handler."""
        options = [self.together, self.differences]
        demo.load(None, [self.kept], options, js=RESTORE, **QUIET)
        gr.on([option.input for option in options], None, options, [self.kept], js=KEEP, **QUIET)
        self.differences.input(
            self.on_differences, [self.differences, self.stage.conversation], self.stage.outputs, **ASKED
        )

    @staticmethod
    def read(kept: Any) -> View:
        """How this browser looked at answers before."""
        return View(differences=isinstance(kept, dict) and kept.get("differences") is True)

    @open_to_all
    def on_differences(self, wanted: bool, conversation: Conversation, request: gr.Request) -> Updates:
        conversation.view.differences = wanted
        return self.stage.show(conversation, speech_for(request))
