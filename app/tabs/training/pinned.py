"""Under a run of the Train tab: pinned prompts, and what base and prefix answered to them at each checkpoint.

Builds the components and names the handlers. The answers come from the run's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.run_view import RunView
from app.views.watching.pinned import pinned_html
from chatglm2.errors import ChatGLMError

Updates = dict[Any, Any]
LINE_BREAK = "\\n"  # how a prompt of several lines is typed on one


class PinnedPart:
    """Built where a run is shown."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Accordion(word("pinned"), open=True, visible=False, elem_id="pinned-box") as self.box:
            self.step = gr.Dropdown(
                [], label=word("pinned_step"), filterable=False, visible=False, elem_id="pinned-step"
            )
            self.answers = gr.HTML(elem_id="pinned-answers")
            with gr.Row(elem_classes="run-name-row"):
                self.prompts = gr.Textbox(
                    label=word("pinned_prompts"), info=word("pinned_help"), lines=3, max_lines=5, elem_id="pinned"
                )
                self.save = gr.Button(word("pin"), size="sm", scale=0, min_width=100, elem_id="save-pinned")

    @property
    def outputs(self) -> list[Any]:
        return [self.box, self.step, self.answers, self.prompts]

    @property
    def controls(self) -> list[Any]:
        """What a visitor who may only watch cannot use."""
        return [self.prompts, self.save]

    def bind(self, run: Any) -> None:
        """Connects everything to its handler."""
        self.step.input(self.on_step, [run, self.step], [self.answers], **QUIET)
        self.save.click(self.on_pin, [run, self.prompts], [self.prompts], **ASKED)

    def show(self, view: RunView, speech: Speech, *, is_other: bool) -> Updates:
        """The newest answers; the prompts are written anew only for another run, as somebody may be typing."""
        steps = [event.step for event in view.pinned]
        updates: Updates = {
            self.box: gr.Accordion(visible=True),
            self.step: gr.Dropdown(
                [(speech("chip_step", step=step), step) for step in steps],
                value=steps[-1] if steps else None,
                visible=len(steps) > 1,
            ),
            self.answers: pinned_html(view.pinned[-1] if steps else None, speech),
        }
        return updates | ({self.prompts: as_lines(view.pins)} if is_other else {})

    def hide(self) -> Updates:
        """There is no run."""
        return {self.box: gr.Accordion(visible=False)}

    # Handlers

    @open_to_all
    def on_step(self, name: str, step: int, request: gr.Request) -> Any:
        found = (event for event in self.services.training.view(name).pinned if event.step == step)
        return pinned_html(next(found, None), speech_for(request))

    def on_pin(self, name: str, text: str, request: gr.Request) -> Any:
        speech = speech_for(request)
        try:
            kept = self.services.care.pin(name, from_lines(text))
        except ChatGLMError as error:
            say_problem(error, speech)
            return gr.skip()
        say(speech("pinned_saved"))
        return as_lines(kept)


def as_lines(prompts: Sequence[str]) -> str:
    """Prompts as they are typed, one a line."""
    return "\n".join(prompt.replace("\n", LINE_BREAK) for prompt in prompts)


def from_lines(text: str) -> list[str]:
    """The prompts that were typed, one a line."""
    return [line.replace(LINE_BREAK, "\n") for line in text.splitlines()]
