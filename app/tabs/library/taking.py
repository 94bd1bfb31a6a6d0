"""Prefixes from elsewhere, on the Checkpoints tab: at a path of this machine, from a hub, from a zip. The operator's.

Builds the components and names the handlers. Where a prefix comes to, and what is refused, is behind the services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from app.chat.sources import Source
from app.services import Services
from app.tabs.library.card import Draw, Updates
from app.tabs.listening import ASKED, FETCHING, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.checkpoint_table import Wanted
from chatglm2.errors import ChatGLMError
from training.library.archive import ARCHIVE_SUFFIX


class Taking:
    """The rows below the table; :meth:`bind` wires them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Row(elem_id="name-path", elem_classes="take-from"):
            self.path = gr.Textbox(
                label=word("name_path"), info=word("name_path_help"), max_lines=1, scale=5, elem_id="path"
            )
            self.add = gr.Button(word("add"), scale=0, min_width=130, elem_id="add-path")
        with gr.Row(elem_id="pull-prefix", elem_classes="take-from"):
            self.repository = gr.Textbox(
                label=word("pull_name"), info=word("pull_name_help"), max_lines=1, scale=5, elem_id="repository"
            )
            self.pull = gr.Button(word("pull"), scale=0, min_width=130, elem_id="pull")
            self.zip = gr.UploadButton(
                word("take_zip"), file_types=[ARCHIVE_SUFFIX], scale=0, min_width=130, elem_id="take-zip"
            )

    @property
    def components(self) -> list[Any]:
        return [self.path, self.add, self.repository, self.pull, self.zip]

    def bind(self, draw: Draw, inputs: list[Any], outputs: list[Any]) -> None:
        """Connects the buttons; ``draw`` draws the tab's table anew from ``inputs``, into ``outputs``."""
        self.draw = draw
        gr.on([self.add.click, self.path.submit], self.on_add, [self.path, *inputs], [*outputs, self.path], **ASKED)
        gr.on(
            [self.pull.click, self.repository.submit],
            self.on_pull,
            [self.repository, *inputs],
            [*outputs, self.repository],
            **FETCHING,
        )
        self.zip.upload(self.on_zip, [self.zip, *inputs], outputs, **FETCHING)

    # Handlers

    def on_add(self, path: str, chosen: dict[str, str], wanted: Wanted, request: gr.Request) -> Updates:
        updates = self._take(lambda: self.services.sources.name_path(path), "added", chosen, wanted, request)
        return {**updates, self.path: ""} if updates else {self.path: gr.skip()}

    def on_pull(self, repository: str, chosen: dict[str, str], wanted: Wanted, request: gr.Request) -> Updates:
        updates = self._take(lambda: [self.services.library.pull(repository)], "taken", chosen, wanted, request)
        return {**updates, self.repository: ""} if updates else {self.repository: gr.skip()}

    def on_zip(self, file: str, chosen: dict[str, str], wanted: Wanted, request: gr.Request) -> Updates:
        return self._take(lambda: [self.services.library.take(file)], "taken", chosen, wanted, request)

    def _take(
        self,
        take: Callable[[], Iterable[Source]],
        sentence: str,
        chosen: dict[str, str],
        wanted: Wanted,
        request: gr.Request,
    ) -> Updates:
        """The table with what was taken; nothing where that failed, which is said."""
        speech: Speech = speech_for(request)
        try:
            taken = list(take())
        except ChatGLMError as error:
            say_problem(error, speech)
            return {}
        say(speech(sentence, name=", ".join(source.name for source in taken)))
        return self.draw(chosen, wanted, speech)
