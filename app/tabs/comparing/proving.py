"""The button that proves the base untouched, for whoever may change things: it reads the model anew."""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr

from app.chat.conversation import PANES
from app.chat.proof import prove_base
from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.comparing.stage import Updates
from app.tabs.listening import QUIET, WORKING, say, say_problem
from app.tabs.translations import speech_for, word
from app.views.comparing.proof import proof_html
from chatglm2.errors import ChatGLMError


class Proving:
    """A button and the badge that it gives."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._busy = threading.Lock()

    def build(self) -> None:
        """Both, in whatever is being built."""
        self.badge = gr.HTML(elem_id="proof")
        self.prove = gr.Button(word("prove_base"), size="sm", elem_id="prove-base")

    def bind(self, demo: gr.Blocks, chosen: gr.State) -> None:
        """Connects the button; ``chosen`` says what the panes answer with."""
        self.prove.click(self.on_prove, [chosen], [self.badge], **WORKING)
        demo.load(self.on_load, None, [self.prove], **QUIET)

    @open_to_all
    def on_load(self, request: gr.Request) -> Any:
        return gr.Button(visible=visitor_of(request).may_change)

    def on_prove(self, chosen: dict[str, str], request: gr.Request) -> Updates:
        speech = speech_for(request)
        if not self._busy.acquire(blocking=False):  # each may take a model's memory
            say(speech("proof_running"))
            return {self.badge: gr.skip()}
        try:
            loaded = [self.services.sources.load(chosen[name]) for name in PANES]
            prefix = next((source.prefix for source in loaded if source.prefix is not None), None)
            return {self.badge: proof_html(prove_base(self.services.host, prefix), speech)}
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.badge: ""}
        finally:
            self._busy.release()
