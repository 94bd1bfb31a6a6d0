"""The Evaluate tab: choose checkpoints and rows, and see who does the task, who keeps the rest, and row by row how.

Builds the components and names the handlers. What runs is a process with a directory of its own, so that a refresh, a
second browser and a restarted page show the same; a viewer holds only which evaluation it looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.evaluation.service import EvaluationView
from app.services import Services
from app.tabs.access import OperatorControls, open_to_all, visitor_of
from app.tabs.clock import Clock
from app.tabs.compare import CompareTab
from app.tabs.evaluation_form import EvaluationForm
from app.tabs.listening import ASKED, QUIET, STOPPING, WORKING, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.evaluation import (
    ALL,
    IMPROVED,
    ORDERS,
    WORST,
    contestant_names,
    progress_html,
    rows_html,
    scores_html,
)
from app.views.fragments import sentence_html
from chatglm2.errors import ChatGLMError
from training.comparison.place import LONGEST_TITLE, Status

COMPARE_TAB = "compare"
ROWS_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, key: button.dataset.key });
});
"""
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Viewer:
    """Which evaluation a browser looks at, and what it was shown last."""

    picked: str | None = None  # None follows the newest
    fingerprint: tuple[Any, ...] = ()
    result: tuple[Any, ...] = ()  # which scores and rows; they stay as they were sorted while these are the same


class EvaluateTab:
    """Built inside a ``gr.Tab``; :meth:`bind` wires it once every tab is there."""

    def __init__(self, services: Services, kept: gr.BrowserState) -> None:
        self.services = services
        self.viewer, self.doomed = gr.State(Viewer()), gr.State("")
        self.controls = OperatorControls("evaluate-key")
        with gr.Row(elem_id="evaluating"):
            with gr.Column(scale=2, min_width=320):
                self.form = EvaluationForm(services, kept)
                self.start = gr.Button(word("evaluate_start"), variant="primary", elem_id="start-evaluation")
            with gr.Column(scale=3, min_width=340, elem_id="evaluated"):
                self._build_results()

    def _build_results(self) -> None:
        with gr.Row(elem_id="evaluation-bar"):
            self.name = gr.Dropdown(
                [], label=word("evaluation"), filterable=False, scale=3, min_width=180, elem_id="evaluation"
            )
            self.stop = gr.Button(word("stop"), visible=False, scale=0, min_width=110, elem_id="stop-evaluation")
            self.go_on = gr.Button(
                word("evaluate_go_on"), visible=False, scale=0, min_width=110, elem_id="continue-evaluation"
            )
            self.rename = gr.Button(
                word("rename_evaluation"), visible=False, size="sm", scale=0, min_width=80, elem_id="rename-evaluation"
            )
            self.delete = gr.Button(
                word("delete_evaluation"), visible=False, size="sm", scale=0, min_width=80, elem_id="delete-evaluation"
            )
        self._build_questions()
        self.progress = gr.HTML(elem_id="evaluation-progress")
        self.scores = gr.HTML(elem_id="evaluation-scores")
        with gr.Column(visible=False, elem_id="compared-rows") as self.rows_box:
            with gr.Row():
                self.contestant = gr.Dropdown(
                    [], label=word("shown_checkpoint"), filterable=False, min_width=150, elem_id="shown-checkpoint"
                )
                lists = [(word("rows_all"), ALL), (word("rows_worst"), WORST), (word("rows_improved"), IMPROVED)]
                self.listed = gr.Dropdown(
                    lists, value=ALL, label=word("shown_rows"), filterable=False, min_width=150, elem_id="shown-rows"
                )
                self.order = gr.Dropdown(
                    [(word(key), key) for key in ORDERS],
                    value="by_number",
                    label=word("sorted_by"),
                    filterable=False,
                    min_width=150,
                    elem_id="row-order",
                )
                self.search = gr.Textbox(label=word("search_rows"), max_lines=1, min_width=150, elem_id="search-rows")
            self.rows = gr.HTML(js_on_load=ROWS_SCRIPT, elem_id="evaluation-rows")

    def _build_questions(self) -> None:
        """What is asked before one is called otherwise, or deleted."""
        with gr.Row(visible=False, elem_id="title-question") as self.title_box:
            self.title = gr.Textbox(label=word("evaluation_title"), max_lines=1, max_length=LONGEST_TITLE, scale=3)
            self.save_title = gr.Button(word("save_title"), size="sm", scale=0, min_width=90, elem_id="save-title")
        with gr.Row(visible=False, elem_id="delete-evaluation-question", elem_classes=["notice", "question"]) as box:
            self.delete_box = box
            self.question = gr.HTML()
            self.delete_no = gr.Button(word("delete_no"), size="sm", scale=0, min_width=100, elem_id="keep-evaluation")
            self.delete_yes = gr.Button(
                word("delete_yes"), variant="stop", size="sm", scale=0, min_width=100, elem_id="really-delete"
            )

    def bind(self, demo: gr.Blocks, clock: Clock, compare: CompareTab, tabs: gr.Tabs) -> None:
        """Connects everything to its handler."""
        self.compare_tab, self.tabs = compare, tabs
        live = self._live_outputs()
        self.form.bind(demo, clock)
        self.start.click(self.on_start, self.form.inputs, live, **WORKING)
        asked = [self.doomed, self.delete_box, self.question]
        self.rename.click(self.on_ask_title, [self.name], [self.title_box, self.title], **QUIET)
        gr.on(
            [self.save_title.click, self.title.submit],
            self.on_rename,
            [self.name, self.title],
            [*live, self.title_box],
            **ASKED,
        )
        self.delete.click(self.on_ask_delete, [self.name], asked, **QUIET)
        self.delete_no.click(self.on_keep, None, asked, **QUIET)
        self.delete_yes.click(self.on_delete, [self.doomed], [*live, *asked], **ASKED)
        self.stop.click(self.on_stop, [self.name], live, **STOPPING)
        self.go_on.click(self.on_go_on, [self.name], live, **WORKING)
        self.name.input(self.on_pick, [self.name], live, **QUIET)
        shown = [self.name, self.contestant, self.listed, self.order, self.search]
        # A textbox of one line tells of what is typed by its change alone.
        changed = [self.contestant.input, self.listed.input, self.order.input, self.search.change]
        gr.on(changed, self.on_rows, shown, [self.rows], trigger_mode="always_last", **QUIET)
        opened = [compare.message, compare.draft, tabs, *compare.chosen_outputs()]
        self.rows.click(self.on_open, [self.name, self.contestant, compare.chosen], opened, **ASKED)
        self.controls.bind(demo, [*self.form.inputs, self.start])
        demo.load(self.on_tick, [self.viewer], live, **QUIET)
        clock.tick(self.on_tick, [self.viewer], live, **QUIET)

    def _live_outputs(self) -> list[Any]:
        return [
            *(self.viewer, self.name, self.stop, self.go_on, self.rename, self.delete, self.progress, self.scores),
            *(self.rows_box, self.contestant, self.listed, self.order, self.search, self.rows),
        ]

    # Handlers

    def on_start(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        wanted = self.form.wanted(values)
        if wanted is None:
            say(speech("choose_file"))
            return {self.viewer: gr.skip()}
        try:
            name = self.services.evaluation.start(wanted, speech.language)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.viewer: gr.skip()}
        say(speech("evaluation_started"))
        return self._show(Viewer(name), speech)

    def on_stop(self, name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            self.services.evaluation.stop(name)
        except ChatGLMError as error:
            say_problem(error, speech)
        return self._show(Viewer(name), speech)

    def on_go_on(self, name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            self.services.evaluation.go_on(name, speech.language)
        except ChatGLMError as error:
            say_problem(error, speech)
        return self._show(Viewer(name), speech)

    @open_to_all
    def on_ask_title(self, name: str) -> Updates:
        return {self.title_box: gr.Row(visible=True), self.title: self._view(name).title}

    def on_rename(self, name: str, title: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            self.services.evaluation.rename(name, title)
        except ChatGLMError as error:
            say_problem(error, speech)
        return {**self._show(Viewer(name), speech), self.title_box: gr.Row(visible=False)}

    @open_to_all
    def on_ask_delete(self, name: str, request: gr.Request) -> Updates:
        question = speech_for(request)("delete_evaluation_question", name=self._view(name).title)
        return {
            self.doomed: name,
            self.question: sentence_html(question, "plain"),
            self.delete_box: gr.Row(visible=True),
        }

    @open_to_all
    def on_keep(self) -> Updates:
        return {self.doomed: "", self.delete_box: gr.Row(visible=False)}

    def on_delete(self, name: str, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            title = self._view(name).title
            self.services.evaluation.delete(name)
            say(speech("deleted", name=title))
        except ChatGLMError as error:
            say_problem(error, speech)
        return {**self._show(Viewer(), speech), **self.on_keep()}

    @open_to_all
    def on_pick(self, name: str, request: gr.Request) -> Updates:
        return self._show(Viewer(name), speech_for(request), may_change=visitor_of(request).may_change)

    @open_to_all
    def on_tick(self, viewer: Viewer, request: gr.Request) -> Updates:
        return self._show(viewer, speech_for(request), may_change=visitor_of(request).may_change)

    @open_to_all
    def on_rows(
        self, name: str, contestant: int | None, listed: str, order: str, search: str, request: gr.Request
    ) -> Updates:
        result = self._view(name).result if name else None
        if result is None:
            return {self.rows: gr.skip()}
        place = min(contestant or 0, len(result.contestants) - 1)
        return {self.rows: rows_html(result, place, listed, order, search, speech_for(request))}

    @open_to_all
    def on_open(
        self, name: str, contestant: int | None, chosen: dict[str, str], event: gr.EventData, request: gr.Request
    ) -> Updates:
        """The row's question goes into the message box, and the checkpoint into the right pane."""
        speech, result = speech_for(request), self._view(name).result
        number = str(event.key)
        row = next((row for row in result.rows if str(row.number) == number), None) if result else None
        if result is None or row is None:
            return {self.tabs: gr.skip()}
        updates: Updates = {}
        checkpoint = result.contestants[min(contestant or 0, len(result.contestants) - 1)].checkpoint
        if checkpoint is not None:
            updates = self.compare_tab.choose("right", checkpoint, chosen, speech)
        say(speech("opened_in_compare"))
        text = {self.compare_tab.message: row.prompt, self.compare_tab.draft: {"text": row.prompt}}
        return {**updates, **text, self.tabs: gr.Tabs(selected=COMPARE_TAB)}

    # Behind the handlers

    def _view(self, name: str) -> EvaluationView:
        return self.services.evaluation.view(name)

    def _show(self, viewer: Viewer, speech: Speech, *, may_change: bool = True) -> Updates:
        titles = self.services.evaluation.titles()
        if not titles:
            return self._show_nothing(viewer, speech)
        names = list(titles)
        name = viewer.picked if viewer.picked in names else names[0]
        view = self._view(name)
        progress = view.progress
        result = (name, view.result.finished_at if view.result else None, may_change)
        mark = (*titles.items(), progress, *result)
        if mark == viewer.fingerprint:
            return {self.viewer: gr.skip()}
        can_go_on = progress.status in (Status.STOPPED, Status.INTERRUPTED, Status.FAILED)
        return {
            self.viewer: Viewer(None if name == names[0] else name, mark, result),
            self.name: gr.Dropdown([(title, key) for key, title in titles.items()], value=name),
            self.stop: gr.Button(visible=progress.status.is_active, interactive=may_change),
            self.go_on: gr.Button(visible=can_go_on, interactive=may_change),
            self.rename: gr.Button(visible=may_change),
            self.delete: gr.Button(visible=may_change and not progress.status.is_active),
            self.progress: progress_html(view, speech),
            **({} if result == viewer.result else self._result(view, speech, may_change=may_change)),
        }

    def _result(self, view: EvaluationView, speech: Speech, *, may_change: bool) -> Updates:
        result = view.result
        if result is None:
            return {self.scores: "", self.rows_box: gr.Column(visible=False)}
        place = min(1, len(result.contestants) - 1)
        choices = list(zip(contestant_names(result, speech), range(len(result.contestants)), strict=True))
        files = self.services.evaluation.result_files(view.name)
        return {
            self.scores: scores_html(view.name, result, files, speech, may_change=may_change),
            self.rows_box: gr.Column(visible=bool(result.rows)),
            self.contestant: gr.Dropdown(choices, value=place),
            self.listed: ALL,
            self.order: "by_number",
            self.search: "",
            self.rows: rows_html(result, place, ALL, "by_number", "", speech),
        }

    def _show_nothing(self, viewer: Viewer, speech: Speech) -> Updates:
        mark = ("nothing",)
        if viewer.fingerprint == mark:
            return {self.viewer: gr.skip()}
        return {
            self.viewer: Viewer(fingerprint=mark),
            self.name: gr.Dropdown([], value=None),
            self.stop: gr.Button(visible=False),
            self.go_on: gr.Button(visible=False),
            self.rename: gr.Button(visible=False),
            self.delete: gr.Button(visible=False),
            self.progress: sentence_html(speech("no_evaluations"), "empty"),
            self.scores: "",
            self.rows_box: gr.Column(visible=False),
        }
