"""Several settings on the Train tab: lists of values that become runs in line, and a table of what came out.

Builds the components and names the handlers. Runs are made by ``services.training`` and read by ``services.sweeps``.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.clock import Clock
from app.tabs.listening import QUIET, WORKING, say, say_problem
from app.tabs.training.form import TrainForm, Updates
from app.tabs.training.line import LinePart
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.watching.line import sweep_html
from chatglm2.errors import ChatGLMError
from training.queue.sweep import SWEPT

EXAMPLES = {"pre_seq_len": "8, 16, 32", "learning_rate": "0.02, 0.05", "max_steps": "100, 200"}


class SweepTable:
    """What came out of runs that were made together."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.told = gr.State("")
        with gr.Accordion(word("sweep_results"), open=True, visible=False, elem_id="sweep-results-box") as self.box:
            self.sweep = gr.Dropdown(
                [], label=word("sweep_group"), filterable=False, visible=False, elem_id="sweep-group"
            )
            self.table = gr.HTML(elem_id="sweep-results")

    @property
    def outputs(self) -> list[Any]:
        return [self.told, self.box, self.sweep, self.table]

    def bind(self, demo: gr.Blocks, clock: Clock) -> None:
        """Connects everything to its handler."""
        self.sweep.input(self.on_pick, [self.sweep], self.outputs, **QUIET)
        for listen in (demo.load, clock.tick):
            listen(self.on_tick, [self.told, self.sweep], self.outputs, **QUIET)

    def show(self, picked: str | None, speech: Speech) -> Updates:
        """The picked group, or the newest."""
        names = self.services.sweeps.names()
        if not names:
            return {self.told: "", self.box: gr.Accordion(visible=False)}
        chosen = picked if picked in names else names[0]
        table = sweep_html(self.services.sweeps.results(chosen), speech)
        return {
            self.told: f"{names} {table}",
            self.box: gr.Accordion(visible=True),
            self.sweep: gr.Dropdown(names, value=chosen, visible=len(names) > 1),
            self.table: table,
        }

    # Handlers

    @open_to_all
    def on_pick(self, picked: str, request: gr.Request) -> Updates:
        return self.show(picked, speech_for(request))

    @open_to_all
    def on_tick(self, told: str, picked: str | None, request: gr.Request) -> Updates:
        updates = self.show(picked, speech_for(request))
        return {self.told: gr.skip()} if updates[self.told] == told else updates


class SweepForm:
    """Lists of values, below the form whose other settings they share. ``line`` and ``table`` show what it makes."""

    def __init__(self, services: Services, form: TrainForm, line: LinePart, table: SweepTable) -> None:
        self.services, self.form, self.line, self.table = services, form, line, table
        with gr.Accordion(word("sweep"), open=False, elem_id="sweep-box"):
            gr.Markdown(word("sweep_help"))
            with gr.Row(elem_classes="sweep-lists"):
                self.lists = {
                    name: gr.Textbox(
                        label=word(f"setting_{name}"),
                        placeholder=EXAMPLES[name],
                        max_lines=1,
                        min_width=130,
                        elem_id=f"sweep-{name}",
                    )
                    for name in SWEPT
                }
            self.begin = gr.Button(word("sweep_begin"), elem_id="begin-sweep")

    @property
    def controls(self) -> list[Any]:
        """What a visitor who may only watch cannot use."""
        return [*self.lists.values(), self.begin]

    def bind(self) -> None:
        """Connects everything to its handler."""
        asked = {*self.form.asked, self.form.name, *self.lists.values()}
        self.begin.click(self.on_begin, asked, [*self.line.outputs, *self.table.outputs], **WORKING)

    def on_begin(self, values: Updates, request: gr.Request) -> Updates:
        speech, data = speech_for(request), self.form.data_of(values)
        if data is None:
            say(speech("choose_file"))
            return {self.line.told: gr.skip()}
        lists = {name: values[component] or "" for name, component in self.lists.items()}
        try:
            form = self.form.values_of(values)
            runs = self.services.training.start_several(data, form, lists, values[self.form.name])
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.line.told: gr.skip()}
        say(speech("sweep_begun", count=len(runs)))
        return {**self.line.show(speech), **self.table.show(None, speech)}
