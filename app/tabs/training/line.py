"""Over a run of the Train tab: the runs that wait in line, and what Start says while they do.

Builds the components and names the handlers. The line is behind ``services.line``.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.clock import Clock
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.translations import speech_for
from app.text.languages import Speech
from app.training.line import Line
from app.views.watching.line import line_html
from chatglm2.errors import ChatGLMError

LINE_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-run]");
  if (button) trigger("click", { run: button.dataset.run });
});
"""
Updates = dict[Any, Any]


class LinePart:
    """Built where a run is shown. ``start`` is the button that starts a run, or puts it in line."""

    def __init__(self, services: Services, start: gr.Button) -> None:
        self.services, self.start = services, start
        self.told = gr.State(Line((), must_wait=False))
        self.line = gr.HTML(js_on_load=LINE_SCRIPT, elem_id="run-line")

    @property
    def outputs(self) -> list[Any]:
        return [self.told, self.line, self.start]

    def bind(self, demo: gr.Blocks, clock: Clock) -> None:
        """Connects everything to its handler."""
        self.line.click(self.on_take_out, None, self.outputs, **ASKED)
        for listen in (demo.load, clock.tick):
            listen(self.on_tick, [self.told], self.outputs, **QUIET)

    def show(self, speech: Speech, *, may_change: bool = True) -> Updates:
        """The line as it is now."""
        line = self.services.line.look()
        return {
            self.told: line,
            self.line: line_html(line.names, speech, may_change=may_change),
            self.start: gr.Button(speech("queue_run" if line.must_wait else "start")),
        }

    # Handlers

    @open_to_all
    def on_tick(self, told: Line, request: gr.Request) -> Updates:
        if self.services.line.look() == told:
            return {self.told: gr.skip()}
        return self.show(speech_for(request), may_change=visitor_of(request).may_change)

    def on_take_out(self, event: gr.EventData, request: gr.Request) -> Updates:
        speech, name = speech_for(request), str(event.run)
        try:
            self.services.line.take_out(name)
        except ChatGLMError as error:
            say_problem(error, speech)
        else:
            say(speech("taken_out", run=name))
        return self.show(speech)
