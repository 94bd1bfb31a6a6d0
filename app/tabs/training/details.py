"""Under a run of the Train tab: its settings, its name, a note, and the buttons that copy or delete it.

Builds the components and names the handlers. What becomes of a run is behind ``services.care``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.training.form import TrainForm, Updates
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.fragments import sentence_html
from app.views.watching.settings import settings_html
from chatglm2.errors import ChatGLMError

Show = Callable[[str | None, Speech], Updates]  # a run, or the newest


class DetailsPart:
    """Built where a run is shown. ``form`` takes a run's settings, ``show`` gives the updates that show a run."""

    def __init__(self, services: Services, form: TrainForm, show: Show) -> None:
        self.services, self.form, self.show_run = services, form, show
        with gr.Accordion(word("run_details"), open=False, visible=False, elem_id="run-details-box") as self.box:
            self.settings = gr.HTML(elem_id="run-details")
            with gr.Row(elem_classes="run-buttons"):
                self.copy = gr.Button(word("copy_settings"), size="sm", min_width=160, elem_id="copy-settings")
                self.delete = gr.Button(word("delete_run"), size="sm", min_width=100, scale=0, elem_id="delete-run")
            with gr.Row(elem_classes="run-name-row"):
                self.name = gr.Textbox(label=word("new_run_name"), max_lines=1, min_width=160, elem_id="new-run-name")
                self.rename = gr.Button(word("rename_run"), size="sm", scale=0, min_width=100, elem_id="rename-run")
            with gr.Row(elem_classes="run-name-row"):
                self.note = gr.Textbox(
                    label=word("run_note"),
                    placeholder=word("run_note_hint"),
                    lines=2,
                    max_lines=6,
                    min_width=160,
                    elem_id="run-note",
                )
                self.save = gr.Button(word("save_note"), size="sm", scale=0, min_width=100, elem_id="save-note")
        with gr.Row(visible=False, elem_id="delete-run-question", elem_classes=["notice", "question"]) as self.question:
            self.asked = gr.HTML()
            self.no = gr.Button(word("delete_no"), size="sm", scale=0, min_width=100, elem_id="delete-run-no")
            self.yes = gr.Button(
                word("delete_yes"), variant="stop", size="sm", scale=0, min_width=100, elem_id="delete-run-yes"
            )

    @property
    def outputs(self) -> list[Any]:
        return [self.box, self.settings, self.name, self.note]

    @property
    def controls(self) -> list[Any]:
        """What a visitor who may only watch cannot use."""
        return [self.copy, self.delete, self.name, self.rename, self.note, self.save]

    def bind(self, run: Any, live: list[Any]) -> None:
        """Connects everything to its handler; ``live`` is what shows a run."""
        self.copy.click(self.on_copy, [run], self.form.copied_outputs(), **ASKED)
        self.rename.click(self.on_rename, [run, self.name], live, **ASKED)
        self.save.click(self.on_note, [run, self.note], live, **ASKED)
        self.delete.click(self.on_ask, [run], [self.asked, self.question], **QUIET)
        self.no.click(self.on_keep, None, [self.question], **QUIET)
        self.yes.click(self.on_delete, [run], [*live, self.question], **ASKED)

    def show(self, name: str, speech: Speech, *, is_other: bool) -> Updates:
        """The run's details; its name and note are written anew only for another run, as somebody may be typing."""
        details = self.services.care.details(name)
        updates: Updates = {self.box: gr.Accordion(visible=True), self.settings: settings_html(details, speech)}
        return {**updates, self.name: name, self.note: details.note} if is_other else updates

    def hide(self) -> Updates:
        """There is no run."""
        return {self.box: gr.Accordion(visible=False)}

    # Handlers

    def on_copy(self, name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            updates = self.form.fill(name, self.services.care.copy(name), speech)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.form.source: gr.skip()}
        say(speech("copied_settings", run=name))
        return updates

    def on_rename(self, name: str, new_name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            renamed = self.services.care.rename(name, new_name)
        except ChatGLMError as error:
            say_problem(error, speech)
            return self.show_run(name, speech)
        say(speech("renamed_run", run=renamed))
        return self.show_run(renamed, speech)

    def on_note(self, name: str, note: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            self.services.care.set_note(name, note)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.note: gr.skip()}
        say(speech("note_saved"))
        return self.show_run(name, speech)

    @open_to_all
    def on_ask(self, name: str, request: gr.Request) -> Updates:
        question = speech_for(request)("delete_run_question", name=name)
        return {self.asked: sentence_html(question, "plain"), self.question: gr.Row(visible=True)}

    @open_to_all
    def on_keep(self) -> Any:
        return gr.Row(visible=False)

    def on_delete(self, name: str, request: gr.Request) -> Updates:
        speech, hidden = speech_for(request), {self.question: self.on_keep()}
        try:
            self.services.care.delete(name)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {**self.show_run(name, speech), **hidden}
        say(speech("deleted", name=name))
        return {**self.show_run(None, speech), **hidden}
