"""A prefix's card on the Checkpoints tab: shown to everybody, changed by the operator.

Builds the components and names the handlers. What a card is, is behind `app.library`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.library.service import Typed
from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.checkpoint_table import Wanted
from app.views.prefix_card import card_html
from chatglm2.errors import ChatGLMError
from training.library.card import LONGEST_LICENSE, LONGEST_NAME, LONGEST_NOTES

Updates = dict[Any, Any]
Draw = Callable[[dict[str, str], Wanted, Speech], Updates]
# A card opens above the table, whose row may lie far below.
SHOW_SCRIPT = """() => {
  if (window.opensCard) document.querySelector("#prefix-card:not(.hidden)")?.scrollIntoView({ block: "nearest" });
  window.opensCard = false;
}"""


class CardPanel:
    """Hidden until a row's button asks for its card; :meth:`bind` wires it."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.key = gr.State("")
        with gr.Column(visible=False, elem_id="prefix-card") as self.box:
            self.facts = gr.HTML(elem_id="card-facts")
            with gr.Column(elem_id="card-form") as self.form:
                with gr.Row():
                    self.name = self._field("card_name", max_length=LONGEST_NAME)
                    self.tags = self._field("card_tags")
                    self.license = self._field("card_license", max_length=LONGEST_LICENSE)
                self.notes = self._field("card_notes", max_length=LONGEST_NOTES, lines=3, max_lines=12)
            with gr.Row(elem_id="card-buttons"):
                self.save = gr.Button(
                    word("card_save"), variant="primary", size="sm", scale=0, min_width=130, elem_id="card-save"
                )
                self.close = gr.Button(word("card_close"), size="sm", scale=0, min_width=100, elem_id="card-close")

    @staticmethod
    def _field(name: str, max_length: int | None = None, lines: int = 1, max_lines: int = 1) -> gr.Textbox:
        return gr.Textbox(
            label=word(name),
            info=word(f"{name}_help"),
            lines=lines,
            max_lines=max_lines,
            max_length=max_length,
            min_width=200,
            elem_id=name.replace("_", "-"),
        )

    @property
    def fields(self) -> list[Any]:
        return [self.name, self.tags, self.license, self.notes]

    @property
    def outputs(self) -> list[Any]:
        """What `open` and `shut` change."""
        return [self.key, self.box, self.facts, self.form, self.save, *self.fields]

    def bind(self, draw: Draw, inputs: list[Any], outputs: list[Any]) -> None:
        """Connects the buttons; ``draw`` draws the tab's table anew from ``inputs``, into ``outputs``."""
        self.draw = draw
        self.save.click(self.on_save, [self.key, *self.fields, *inputs], [self.facts, *outputs], **ASKED)
        self.close.click(self.on_close, None, [self.key, self.box], **QUIET)

    # Handlers

    def on_save(
        self,
        key: str,
        name: str,
        tags: str,
        licence: str,
        notes: str,
        chosen: dict[str, str],
        wanted: Wanted,
        request: gr.Request,
    ) -> Updates:
        speech = speech_for(request)
        try:
            self.services.library.write(key, Typed(name or "", tags or "", licence or "", notes or ""))
            shown = self.services.library.show(key)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.facts: gr.skip()}
        say(speech("card_saved", name=shown.source.name))
        return {self.facts: card_html(shown, speech, with_texts=False), **self.draw(chosen, wanted, speech)}

    @open_to_all
    def on_close(self) -> Updates:
        return self.shut()

    # For the tab

    def open(self, key: str, request: gr.Request) -> Updates:
        """Shows the card of ``key``; its fields only to who may change it, and only where it can be read."""
        speech = speech_for(request)
        try:
            shown = self.services.library.show(key)
        except ChatGLMError as error:
            say_problem(error, speech)
            return self.shut()
        may_change = visitor_of(request).may_change and shown.entry.problem is None
        card = shown.card
        return {
            self.key: key,
            self.box: gr.Column(visible=True),
            self.facts: card_html(shown, speech, with_texts=not may_change),
            self.form: gr.Column(visible=may_change),
            self.save: gr.Button(visible=may_change),
            self.name: card.name,
            self.tags: ", ".join(card.tags),
            self.license: card.license,
            self.notes: card.notes,
        }

    def shut(self) -> Updates:
        return {self.key: "", self.box: gr.Column(visible=False)}
