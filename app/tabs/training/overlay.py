"""Under a run of the Train tab: its curves among those of other runs, and what their settings differ in.

Builds the components and names the handlers. Which others are shown, a browser keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.clock import Clock
from app.tabs.listening import QUIET
from app.tabs.translations import speech_for, word
from app.training.run_view import RunView
from app.views.watching.overlaid import overlaid_html
from chatglm2.errors import ChatGLMError

MOST_OTHERS = 5
NOTHING_SHOWN: tuple[Any, ...] = ()


class OverlayPart:
    """Built where a run is shown."""

    def __init__(self, services: Services, kept: gr.BrowserState) -> None:
        self.services, self.kept = services, kept
        self.shown = gr.State(None)
        with gr.Accordion(word("overlay"), open=False, visible=False, elem_id="overlay-box") as self.box:
            self.others = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MOST_OTHERS,
                label=word("overlay_others"),
                info=word("overlay_help"),
                elem_id="overlay-runs",
            )
            self.curves = gr.HTML(elem_id="overlay")

    def bind(self, demo: gr.Blocks, run: Any, clock: Clock) -> None:
        """Connects everything to its handler; ``run`` says which one is shown."""
        outputs = [self.shown, self.box, self.others, self.curves]
        inputs = [run, self.others, self.shown, self.kept]
        self.others.input(self.on_choose, [self.others], [self.kept], **QUIET).then(
            self.on_tick, inputs, outputs, **QUIET
        )
        demo.load(self.on_load, None, [self.shown], **QUIET)
        run.change(self.on_tick, inputs, outputs, **QUIET)
        clock.tick(self.on_tick, inputs, outputs, **QUIET)

    # Handlers

    @open_to_all
    def on_load(self) -> tuple[Any, ...]:
        """What the browser kept has arrived: from now on it is shown."""
        return NOTHING_SHOWN

    @open_to_all
    def on_choose(self, others: list[str] | None) -> list[str]:
        return (others or [])[:MOST_OTHERS]

    @open_to_all
    def on_tick(
        self, name: str | None, others: list[str] | None, shown: Sequence[Any] | None, kept: Any, request: gr.Request
    ) -> dict[Any, Any]:
        if shown is None:
            return {self.shown: gr.skip()}
        names = [other for other in self.services.training.names() if other != name]
        wanted = (others or []) if shown else kept
        chosen = [other for other in wanted if other in names][:MOST_OTHERS] if isinstance(wanted, list) else []
        views = self._views([name, *chosen]) if name and chosen else []
        mark = (name, *names, "beside", *(_progress(view) for view in views))
        if mark == tuple(shown):
            return {self.shown: gr.skip()}
        differences = self.services.care.differences([view.name for view in views])
        return {
            self.shown: mark,
            self.box: gr.Accordion(visible=bool(name and names)),
            self.others: gr.Dropdown(names, value=chosen),
            self.curves: overlaid_html(views, differences, speech_for(request)) if len(views) > 1 else "",
        }

    def _views(self, names: list[str]) -> list[RunView]:
        views = []
        for name in names:
            try:
                self.services.care.differences([name])
                views.append(self.services.training.view(name))
            except ChatGLMError:  # deleted meanwhile, or of settings that cannot be read
                continue
        return views


def _progress(view: RunView) -> tuple[str, int, int, int]:
    return (view.name, len(view.losses), len(view.validation), len(view.kept))
