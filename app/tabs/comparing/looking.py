"""The drawer with how answers are looked at: scrolled together, their differences marked, judged blind.

What is chosen stays in the visitor's browser.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import Conversation, View
from app.tabs.access import open_to_all
from app.tabs.comparing.proving import Proving
from app.tabs.comparing.samples import Samples
from app.tabs.comparing.stage import Stage, Updates
from app.tabs.comparing.voting import Voting
from app.tabs.listening import ASKED, QUIET
from app.tabs.translations import speech_for, word

# What was kept, or what a first visitor gets; another value in the browser's store counts as none.
RESTORE = """(kept) => {
  const chosen = (name, otherwise) => (typeof kept?.[name] === "boolean" ? kept[name] : otherwise);
  window.lookAt(chosen("together", true), chosen("blind", false));
  return [chosen("together", true), chosen("differences", false), chosen("blind", false)];
}"""
KEEP = """(together, differences, blind) => {
  window.lookAt(together, blind);
  return { together, differences, blind };
}"""


class Looking:
    """A panel that a button opens; compare.js shows and hides it."""

    def __init__(self, stage: Stage, voting: Voting, samples: Samples, proving: Proving) -> None:
        self.stage = stage
        self.kept = gr.BrowserState({}, storage_key="chatglm-view", secret="chatglm")
        with gr.Column(elem_id="looking", elem_classes="drawer"):
            self.together = gr.Checkbox(
                True, label=word("scroll_together"), info=word("scroll_together_help"), elem_id="scroll-together"
            )
            self.differences = gr.Checkbox(
                False, label=word("show_differences"), info=word("show_differences_help"), elem_id="show-differences"
            )
            self.blind = gr.Checkbox(
                False, label=word("blind_vote"), info=word("blind_vote_help"), elem_id="blind-vote"
            )
            voting.build_table()
            samples.build_form()
            proving.build()

    def bind(self, demo: gr.Blocks) -> None:
        """Connects everything to its handler."""
        options = [self.together, self.differences, self.blind]
        demo.load(None, [self.kept], options, js=RESTORE, **QUIET)
        gr.on([option.input for option in options], None, options, [self.kept], js=KEEP, **QUIET)
        changed = [self.differences.input, self.blind.input]
        asked = [self.differences, self.blind, self.stage.conversation]
        gr.on(changed, self.on_look, asked, self.stage.outputs, **ASKED)

    @staticmethod
    def read(kept: Any) -> View:
        """How this browser looked at answers before."""
        found = kept if isinstance(kept, dict) else {}
        return View(**{name: found.get(name) is True for name in ("differences", "blind")})

    @open_to_all
    def on_look(self, differences: bool, blind: bool, conversation: Conversation, request: gr.Request) -> Updates:
        conversation.view = View(differences, blind)
        return self.stage.show(conversation, speech_for(request))
