"""The Train tab: choose data, press Start, watch the loss fall; everything shown here comes from the run's files.

Builds the components and names the handlers. A viewer holds only which run it looks at, so a refresh, a second browser
and a restarted server show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import OperatorControls, open_to_all, visitor_of
from app.tabs.clock import Clock
from app.tabs.compare import CompareTab
from app.tabs.listening import ASKED, QUIET, STOPPING, WORKING, say, say_problem
from app.tabs.training.details import DetailsPart
from app.tabs.training.form import TrainForm, Updates
from app.tabs.training.kept import KeptLooks
from app.tabs.training.line import LinePart
from app.tabs.training.overlay import OverlayPart
from app.tabs.training.pinned import PinnedPart
from app.tabs.training.prompt_lines import from_lines
from app.tabs.training.sweep import SweepForm, SweepTable
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.run_view import RunView
from app.views.charts import empty_chart
from app.views.fragments import sentence_html
from app.views.run_figures import loss_html, more_curves_html, ready_html, retention_html, run_html
from app.views.watching.journal import journal_html
from chatglm2.errors import ChatGLMError
from training.runs.store import Status

COMPARE_TAB, TRAIN_TAB = "compare", "train"


@dataclass(frozen=True)
class Viewer:
    """What one browser looks at, and what it was shown last."""

    picked: str | None = None  # None follows the newest run
    shown: str | None = None
    fingerprint: tuple[Any, ...] = ()


def fingerprint(view: RunView, names: list[str]) -> tuple[Any, ...]:
    """Changes when the page would look different."""
    curves = (len(view.losses), len(view.validation), len(view.kept), len(view.events))
    checkpoints = tuple((info.step, info.is_best) for info in view.checkpoints)
    state = (view.status, view.phase, view.share)
    return (*names, view.name, *state, *curves, *checkpoints, view.message, hash(view.log))


class TrainTab(TrainForm):
    """Built inside a ``gr.Tab``; :meth:`bind` wires it once every tab is there."""

    def __init__(self, services: Services, kept: KeptLooks) -> None:
        self.kept = kept
        self.viewer = gr.State(Viewer())
        self.controls = OperatorControls("train-key")
        with gr.Row(elem_id="training"):
            with gr.Column(scale=2, min_width=320):
                super().__init__(services)
                below = gr.Column()
            with gr.Column(scale=3, min_width=340, elem_id="live"):
                self._build_live()
        with below:
            self.sweep = SweepForm(services, self, self.line, self.sweep_table)

    def _build_live(self) -> None:
        self.line = LinePart(self.services, self.start)
        with gr.Row(elem_id="run-bar"):
            self.run = gr.Dropdown([], label=word("run"), filterable=False, scale=3, min_width=180, elem_id="run")
            self.stop = gr.Button(word("stop"), visible=False, scale=0, min_width=110, elem_id="stop-run")
            self.resume = gr.Button(word("resume"), visible=False, scale=0, min_width=110, elem_id="resume-run")
        self.share = gr.Radio(
            [
                (word("share_chat_first"), "chat-first"),
                (word("share_even"), "even"),
                (word("share_training_first"), "training-first"),
            ],
            label=word("share"),
            visible=False,
            elem_id="run-share",
        )
        self.progress = gr.HTML(elem_id="run-progress")
        with gr.Row(visible=False, elem_id="checkpoint-ready", elem_classes="notice") as self.ready_row:
            self.ready = gr.HTML(elem_id="checkpoint-ready-text")
            self.compare = gr.Button(
                word("compare_now"), variant="primary", size="sm", min_width=120, scale=0, elem_id="compare-now"
            )
        self.chart = gr.HTML(elem_id="loss-chart")
        self.retention = gr.HTML(elem_id="retention")
        self.pinned = PinnedPart(self.services, self.kept.pinned)
        with gr.Accordion(word("more_curves"), open=False, elem_id="more-curves-box"):
            self.curves = gr.HTML(elem_id="more-curves")
        self.overlay = OverlayPart(self.services, self.kept.overlay)
        with gr.Accordion(word("log"), open=True, elem_id="log-box"):
            self.log = gr.HTML(elem_id="run-log")
        self.sweep_table = SweepTable(self.services)
        self.details = DetailsPart(self.services, self, lambda name, speech: self._show(Viewer(name), speech))

    # Wiring

    def bind(self, demo: gr.Blocks, clock: Clock, compare: CompareTab, tabs: gr.Tabs) -> None:
        """Connects everything to its handler."""
        self.compare_tab, self.tabs = compare, tabs
        self.bind_form(demo, clock)
        live = self._live_outputs()
        shown = [*live, *self.line.outputs, *self._cost_outputs()]
        self.start.click(self.on_start, {*self.asked, self.name, self.pins}, shown, **WORKING)
        self.stop.click(self.on_stop, [self.run], live, **STOPPING)
        self.resume.click(self.on_resume, [self.run], live, **WORKING)
        self.run.input(self.on_pick, [self.run], live, **QUIET)
        self.share.input(self.on_share, [self.run, self.share], live, **ASKED)
        self.compare.click(self.on_compare, [self.run, compare.chosen], [*compare.chosen_outputs(), tabs], **ASKED)
        actions = [self.propose, self.try_it, self.start]
        self.controls.bind(
            demo,
            [
                *(*self.typed, self.name, self.pins, *actions, *self.data.controls),
                *(*self.details.controls, *self.pinned.controls, *self.sweep.controls),
            ],
            (self.preview_box,),
        )
        self.details.bind(self.run, live)
        self.line.bind(demo, clock)
        self.sweep.bind()
        self.sweep_table.bind(demo, clock)
        self.pinned.bind(demo, self.run, clock)
        self.overlay.bind(demo, self.run, clock)
        demo.load(self.on_tick, [self.viewer], live, **QUIET)
        clock.tick(self.on_tick, [self.viewer], live, **QUIET)

    def _live_outputs(self) -> list[Any]:
        return [
            *(self.viewer, self.run, self.stop, self.resume, self.share, self.progress),
            *(self.ready_row, self.ready, self.chart, self.retention, self.curves, self.log),
            *self.details.outputs,
        ]

    # Handlers

    def on_start(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        data = self.data_of(values)
        if data is None:
            say(self._no_data(values, speech))
            return {self.viewer: gr.skip()}
        try:
            pins = from_lines(values[self.pins])
            run = self.services.training.start(data, self.values_of(values), values[self.name], pins)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.viewer: gr.skip(), **self.on_cost(values, request)}
        if run.state().status is Status.QUEUED:
            say(speech("queued", run=run.name))
            return {self.viewer: gr.skip(), **self.line.show(speech)}
        say(speech("started"))
        return {**self._show(Viewer(picked=run.name), speech), **self.line.show(speech)}

    def on_stop(self, name: str, request: gr.Request) -> Updates:
        return self._command(self.services.training.stop, name, request)

    def on_resume(self, name: str, request: gr.Request) -> Updates:
        return self._command(self.services.training.resume, name, request)

    def on_share(self, name: str, share: str, request: gr.Request) -> Updates:
        return self._command(lambda run: self.services.training.set_share(run, share), name, request)

    @open_to_all
    def on_pick(self, name: str, request: gr.Request) -> Updates:
        return self._show(Viewer(picked=name), speech_for(request), may_change=visitor_of(request).may_change)

    @open_to_all
    def on_compare(self, name: str, chosen: dict[str, str], request: gr.Request) -> Updates:
        offered = self.services.training.view(name).offered_checkpoint
        if offered is None:
            return {self.tabs: gr.skip()}
        updates = self.compare_tab.choose("right", str(offered.path), chosen, speech_for(request))
        return {**updates, self.tabs: gr.Tabs(selected=COMPARE_TAB)}

    @open_to_all
    def on_tick(self, viewer: Viewer, request: gr.Request) -> Updates:
        return self._show(viewer, speech_for(request), may_change=visitor_of(request).may_change)

    # Behind the handlers

    def _command(self, command: Any, name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            command(name)
        except ChatGLMError as error:
            say_problem(error, speech)
        return self._show(Viewer(picked=name), speech)

    def _show(self, viewer: Viewer, speech: Speech, *, may_change: bool = True) -> Updates:
        names = self.services.training.names()
        if not names:
            return self._show_nothing(viewer, speech)
        followed = self.services.training.followed(names)
        name = viewer.picked if viewer.picked in names else followed
        view = self.services.training.view(name)
        mark = fingerprint(view, names)
        if mark == viewer.fingerprint:
            return {self.viewer: gr.skip()}
        offered = view.offered_checkpoint
        return {
            self.viewer: Viewer(None if name == followed else name, name, mark),
            self.run: gr.Dropdown(names, value=name),
            self.stop: gr.Button(visible=view.status.is_active, interactive=may_change and view.status != "stopping"),
            self.resume: gr.Button(visible=view.can_resume, interactive=may_change),
            self.share: gr.Radio(value=view.share, visible=view.share is not None, interactive=may_change),
            self.progress: run_html(view, speech),
            self.ready_row: gr.Row(visible=offered is not None),
            self.ready: ready_html(view, speech),
            self.chart: loss_html(view, speech),
            self.retention: retention_html(view, speech),
            self.curves: more_curves_html(view, speech),
            self.log: journal_html(view.events, view.log, speech),
            **self.details.show(name, speech, is_other=name != viewer.shown),
        }

    def _show_nothing(self, viewer: Viewer, speech: Speech) -> Updates:
        mark = ("nothing",)
        if viewer.fingerprint == mark:
            return {self.viewer: gr.skip()}
        return {
            self.viewer: Viewer(fingerprint=mark),
            self.run: gr.Dropdown([], value=None),
            self.stop: gr.Button(visible=False),
            self.resume: gr.Button(visible=False),
            self.share: gr.Radio(visible=False),
            self.progress: sentence_html(speech("no_runs"), "empty"),
            self.ready_row: gr.Row(visible=False),
            self.chart: empty_chart(speech("no_points")),
            self.retention: "",
            self.curves: sentence_html(speech("no_points"), "empty"),
            self.log: journal_html((), "", speech),
            **self.details.hide(),
        }
