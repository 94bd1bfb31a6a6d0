"""Under a run of the Train tab: pinned prompts, and what base and prefix answered to them at each checkpoint.

Builds the components and names the handlers. The answers come from the run's files. Follows the newest ones, unless
its reader has gone back to an older step; a browser keeps that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.clock import Clock
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.training.prompt_lines import as_lines, build_prompts, from_lines
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.run_view import RunView
from app.views.watching.pinned import pinned_html
from chatglm2.errors import ChatGLMError
from training.runs.events import PinnedEvent

Updates = dict[Any, Any]
NOTHING_SHOWN: tuple[Any, ...] = ()


class PinnedPart:
    """Built where a run is shown."""

    def __init__(self, services: Services, looked: gr.BrowserState) -> None:
        self.services, self.looked = services, looked
        self.shown = gr.State(None)  # which run and how many answers a browser was shown last
        with gr.Accordion(word("pinned"), open=True, visible=False, elem_id="pinned-box") as self.box:
            self.step = gr.Slider(
                0,
                1,
                0,
                step=1,
                label=word("pinned_step"),
                info=word("pinned_step_help"),
                buttons=[],
                visible=False,
                elem_id="pinned-step",
            )
            self.answers = gr.HTML(elem_id="pinned-answers")
            with gr.Row(elem_classes="run-name-row"):
                self.prompts = build_prompts((), "pinned_help", "pinned")
                self.save = gr.Button(word("pin"), size="sm", scale=0, min_width=100, elem_id="save-pinned")

    @property
    def controls(self) -> list[Any]:
        """What a visitor who may only watch cannot use."""
        return [self.prompts, self.save]

    def bind(self, demo: gr.Blocks, run: Any, clock: Clock) -> None:
        """Connects everything to its handler; ``run`` says which one is shown."""
        outputs = [self.shown, self.box, self.step, self.answers, self.prompts]
        self.step.input(
            self.on_step, [run, self.step], [self.looked, self.answers], trigger_mode="always_last", **QUIET
        )
        self.save.click(self.on_pin, [run, self.prompts], [self.prompts], **ASKED)
        demo.load(self.on_load, None, [self.shown], **QUIET)
        run.change(self.on_tick, [run, self.shown, self.looked], outputs, **QUIET)
        clock.tick(self.on_tick, [run, self.shown, self.looked], outputs, **QUIET)

    # Handlers

    @open_to_all
    def on_load(self) -> tuple[Any, ...]:
        """What the browser kept has arrived: from now on it is shown."""
        return NOTHING_SHOWN

    @open_to_all
    def on_tick(self, name: str | None, shown: Sequence[Any] | None, looked: Any, request: gr.Request) -> Updates:
        if shown is None:
            return {self.shown: gr.skip()}
        view = self._view(name)
        mark = NOTHING_SHOWN if view is None else (view.name, len(view.pinned), view.pinned[-1:])
        if mark == tuple(shown):
            return {self.shown: gr.skip()}
        if view is None:
            return {self.shown: mark, self.box: gr.Accordion(visible=False)}
        is_other = not shown or shown[0] != view.name
        return {self.shown: mark, **self._show(view, read_step(looked, view.name), speech_for(request), is_other)}

    @open_to_all
    def on_step(self, name: str, step: float, request: gr.Request) -> Any:
        """The answers of the checkpoint that is nearest; where that is the newest, newer ones are shown, too."""
        view = self._view(name)
        event = None if view is None else nearest(view.pinned, step)
        if view is None or event is None:
            return gr.skip(), gr.skip()
        is_newest = event.step == view.pinned[-1].step
        looked = {} if is_newest else {"run": view.name, "step": event.step}
        return looked, pinned_html(event, speech_for(request), all_weights=view.trains_all_weights)

    def on_pin(self, name: str, text: str, request: gr.Request) -> Any:
        speech = speech_for(request)
        try:
            kept = self.services.care.pin(name, from_lines(text))
        except ChatGLMError as error:
            say_problem(error, speech)
            return gr.skip()
        say(speech("pinned_saved"))
        return as_lines(kept)

    # Behind the handlers

    def _view(self, name: str | None) -> RunView | None:
        """None where there is no run, or none any more."""
        try:
            return self.services.training.view(name) if name else None
        except ChatGLMError:
            return None

    def _show(self, view: RunView, step: int | None, speech: Speech, is_other: bool) -> Updates:
        """The prompts are written anew only for another run, as somebody may be typing."""
        steps = [event.step for event in view.pinned]
        event = nearest(view.pinned, math.inf if step is None else step)
        updates: Updates = {
            self.box: gr.Accordion(visible=True),
            self.answers: pinned_html(event, speech, all_weights=view.trains_all_weights),
            self.step: gr.Slider(visible=False),
        }
        if event is not None and len(steps) > 1:
            apart = math.gcd(*(later - steps[0] for later in steps[1:]))
            updates[self.step] = gr.Slider(steps[0], steps[-1], event.step, step=apart, visible=True)
        return updates | ({self.prompts: as_lines(view.pins)} if is_other else {})


def nearest(events: Sequence[PinnedEvent], step: float) -> PinnedEvent | None:
    """The answers nearest to a step; infinity is the newest's."""
    if math.isinf(step):
        return events[-1] if events else None
    return min(events, key=lambda event: abs(event.step - step), default=None)


def read_step(looked: Any, run: str) -> int | None:
    """The step that a browser's reader went back to in a run; None to follow the newest."""
    if not isinstance(looked, dict) or looked.get("run") != run:
        return None
    step = looked.get("step")
    return step if isinstance(step, int) else None
