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
from app.tabs.compare import CompareTab
from app.tabs.listening import ASKED, QUIET, STOPPING, WORKING, say, say_problem
from app.tabs.settings_form import build_setting
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.form import by_topic, form_fields, preset_reason, preset_values, problem_text, refill, steps_beside
from app.training.run_view import RunView
from app.training.served import ALL_WEIGHTS, LEARNS, PREFIX
from app.training.service import DataChoice
from app.views.charts import empty_chart
from app.views.dataset import dataset_html, trials_html
from app.views.fragments import log_html, sentence_html
from app.views.run_cost import cost_html
from app.views.run_figures import loss_html, more_curves_html, ready_html, retention_html, run_html
from chatglm2.errors import ChatGLMError
from training.settings.train import FULL_LEARNING_RATE, PREFIX_LEARNING_RATE

SAMPLE, UPLOAD, LIKED = "sample", "upload", "liked"
COMPARE_TAB, TRAIN_TAB = "compare", "train"
# What may be changed so that a run fits; see `training.plan.fitting`.
FITTED = (
    *("max_source_length", "max_target_length", "gradient_checkpointing"),
    *("quantization_bit", "dtype", "prefix_projection"),
)
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Viewer:
    """What one browser looks at, and what it was shown last."""

    picked: str | None = None  # None follows the newest run
    shown: str | None = None
    fingerprint: tuple[Any, ...] = ()


def fingerprint(view: RunView, names: list[str]) -> tuple[Any, ...]:
    """Changes when the page would look different."""
    curves = (len(view.losses), len(view.validation), len(view.kept))
    checkpoints = tuple((info.step, info.is_best) for info in view.checkpoints)
    state = (view.status, view.phase, view.share)
    return (*names, view.name, *state, *curves, *checkpoints, view.message, hash(view.log))


class TrainTab:
    """Built inside a ``gr.Tab``; :meth:`bind` wires it once every tab is there."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.viewer = gr.State(Viewer())
        self.controls = OperatorControls("train-key")
        with gr.Row(elem_id="training"):
            with gr.Column(scale=2, min_width=320):
                self._build_data()
                self._build_form()
            with gr.Column(scale=3, min_width=340, elem_id="live"):
                self._build_live()

    def _build_data(self) -> None:
        self.source = gr.Radio(
            [(word("data_sample"), SAMPLE), (word("data_upload"), UPLOAD), (word("data_liked"), LIKED)],
            value=SAMPLE,
            label=word("data"),
            elem_id="data-source",
        )
        self.file = gr.File(
            label=word("upload_label"),
            file_types=[".json", ".jsonl", ".csv"],
            visible=False,
            height=110,
            elem_id="data-file",
        )
        with gr.Row(visible=False, elem_id="data-columns") as self.columns_row:
            self.columns = {
                name: gr.Dropdown(
                    [], label=word(name), filterable=False, min_width=140, elem_id=f"data-{name.replace('_', '-')}"
                )
                for name in ("prompt_column", "response_column", "history_column")
            }
        with gr.Accordion(word("data_preview"), open=False, elem_id="data-preview") as self.preview_box:
            self.preview = gr.HTML(elem_id="data-report")

    def _build_form(self) -> None:
        self.form: dict[str, Any] = {}
        defaults = self.services.training.defaults
        self.filled = gr.State(preset_values("", defaults))  # what the page put into the form, not a person
        first, *basic = form_fields("basic", defaults)
        with gr.Row():
            self.form[first.name] = build_setting(first)
            self.name = gr.Textbox(
                label=word("run_name"), info=word("run_name_help"), max_lines=1, min_width=120, elem_id="run-name"
            )
        self.preset_reason = gr.HTML(elem_id="preset-reason")
        learns = [(word("learns_prefix"), PREFIX), (word("learns_all"), ALL_WEIGHTS)]
        self.learns = gr.Radio(learns, value=PREFIX, label=word("learns"), info=word("learns_help"), elem_id="learns")
        self.form[LEARNS] = self.learns
        self._build_start()
        with gr.Row(elem_classes="settings"):
            self.form.update({item.name: build_setting(item) for item in basic})
        with gr.Accordion(word("more_settings"), open=False, elem_id="more-settings"):
            self._build_more_settings()
        self.cost = gr.HTML(elem_id="run-cost")
        self.cost_key, self.changes = gr.State(""), gr.State({})  # what the cost depends on beside the form; what fits
        self.fit = gr.Button(word("fit_settings"), visible=False, size="sm", elem_id="fit-settings")
        self.start = gr.Button(word("start"), variant="primary", elem_id="start")

    def _build_more_settings(self) -> None:
        gr.Textbox(  # page.js finds
            placeholder=word("find_setting"),
            label=word("find_setting"),
            show_label=False,
            container=False,
            max_lines=1,
            elem_id="find-setting",
        )
        for topic, fields in by_topic(form_fields("advanced", self.services.training.defaults)).items():
            with gr.Column(elem_classes="topic"):
                gr.Markdown(word(f"topic_{topic}"))
                with gr.Row(elem_classes="settings"):
                    self.form.update({item.name: build_setting(item) for item in fields})

    def _build_start(self) -> None:
        """Where a prefix starts, and how much of the rest it keeps."""
        sample = self.services.training.propose_sentence(DataChoice(self.services.training.sample_path()))
        with gr.Column(elem_id="prefix-start") as self.start_box:
            self.form["prefix_text"] = gr.Textbox(
                sample,
                label=word("setting_prefix_text"),
                info=word("try_help"),
                max_lines=3,
                elem_id="setting-prefix_text",
            )
            with gr.Row(elem_id="prefix-start-buttons"):
                self.propose = gr.Button(word("propose"), size="sm", min_width=120, elem_id="propose-sentence")
                self.try_it = gr.Button(word("try_it"), size="sm", min_width=120, elem_id="try-sentence")
            self.tried = gr.HTML(elem_id="tried-rows")
        self.form["keep"] = gr.Radio(
            [(word("keep_off"), 0.0), (word("keep_some"), 0.5), (word("keep_most"), 1.0)],
            value=0.5,
            label=word("setting_keep"),
            info=word("keep_help_steps" if steps_beside(1.0, "", self.services.training.defaults) else "keep_help"),
            elem_id="setting-keep",
        )

    def _build_live(self) -> None:
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
        with gr.Accordion(word("more_curves"), open=False, elem_id="more-curves-box"):
            self.curves = gr.HTML(elem_id="more-curves")
        with gr.Accordion(word("log"), open=True, elem_id="log-box"):
            self.log = gr.HTML(elem_id="run-log")

    # Wiring

    def bind(self, demo: gr.Blocks, timer: gr.Timer, compare: CompareTab, tabs: gr.Tabs) -> None:
        """Connects everything to its handler."""
        self.compare_tab, self.tabs = compare, tabs
        data = {self.source, self.file, *self.columns.values(), *self.form.values()}
        sentence = self.form["prefix_text"]
        chosen_data = [self.columns_row, *self.columns.values(), self.preview, sentence, self.tried]
        self.source.input(self.on_source, [self.source], [self.file, self.columns_row, self.preview_box], **QUIET)
        gr.on([self.source.input, self.file.change], self.on_file, data, chosen_data, **WORKING)
        columns = [column.input for column in self.columns.values()]
        gr.on(
            columns, self.on_columns, data, [self.preview, sentence, self.tried], trigger_mode="always_last", **WORKING
        )
        self.propose.click(self.on_propose, data, [sentence, self.tried], **WORKING)
        self.try_it.click(self.on_try, data, [self.tried], **WORKING)
        self.preview_box.expand(self.on_preview, data, [self.preview], **WORKING)
        preset, filled = self.form["preset"], [self.form[name] for name in preset_values("", {})]
        asked = {preset, self.filled, *filled}
        preset.input(self.on_preset, asked, [self.preset_reason, self.filled, *filled], **QUIET)
        self.form["keep"].input(self.on_keep, asked, [self.form["max_steps"], self.filled], **QUIET)
        learning = [self.form[name] for name in ("pre_seq_len", "learning_rate", "preset")]
        shown = [*learning, self.preset_reason, self.start_box, self.form["keep"]]
        self.learns.input(self.on_learns, [self.learns], shown, **QUIET)
        self._bind_cost(timer, data)
        live = self._live_outputs()
        self.start.click(self.on_start, {*data, self.name}, [*live, *self._cost_outputs()], **WORKING)
        self.stop.click(self.on_stop, [self.run], live, **STOPPING)
        self.resume.click(self.on_resume, [self.run], live, **WORKING)
        self.run.input(self.on_pick, [self.run], live, **QUIET)
        self.share.input(self.on_share, [self.run, self.share], live, **ASKED)
        self.compare.click(self.on_compare, [self.run, compare.chosen], [*compare.chosen_outputs(), tabs], **ASKED)
        actions = [self.propose, self.try_it, self.start]
        self.controls.bind(demo, [*data, self.name, *actions], (self.preview_box,))
        demo.load(self.on_tick, [self.viewer], live, **QUIET)
        timer.tick(self.on_tick, [self.viewer], live, **QUIET)

    def _bind_cost(self, timer: gr.Timer, data: set[Any]) -> None:
        """The cost follows the form: while it is asked for, what changes meanwhile is asked for once, afterwards."""
        asked = [self.cost_key.change, *(component.change for component in data)]
        gr.on(asked, self.on_cost, data, self._cost_outputs(), trigger_mode="always_last", **QUIET)
        timer.tick(self.on_cost_key, [self.cost_key], [self.cost_key], **QUIET)
        numbers = [self.form[name] for name in FITTED]
        self.fit.click(self.on_fit, [self.changes], [*numbers, self.fit], **ASKED)

    def _cost_outputs(self) -> list[Any]:
        return [self.cost, self.changes, self.fit]

    def _live_outputs(self) -> list[Any]:
        return [
            *(self.viewer, self.run, self.stop, self.resume, self.share, self.progress),
            *(self.ready_row, self.ready, self.chart, self.retention, self.curves, self.log),
        ]

    # Handlers: data

    @open_to_all
    def on_source(self, source: str) -> Updates:
        own = source == UPLOAD
        if own:
            self.services.training.expect_file()
        return {
            self.file: gr.File(visible=own),
            self.columns_row: gr.Row(visible=False),
            self.preview_box: gr.Accordion(open=source != SAMPLE),
        }

    def on_file(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        path = self._path(values)
        if path is None:
            return {self.preview: sentence_html(self._no_data(values, speech))}
        try:
            names = self.services.training.columns(path)
        except ChatGLMError as error:
            return {
                self.columns_row: gr.Row(visible=False),
                self.preview: sentence_html(problem_text(error, speech), "failed"),
            }
        updates: Updates = {column: gr.Dropdown([("—", ""), *names], value="") for column in self.columns.values()}
        updates[self.columns_row] = gr.Row(visible=values[self.source] == UPLOAD)
        data = DataChoice(path)
        return updates | self._report(values, data, speech) | self._proposal(data)

    def on_preview(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        data = self._data(values)
        if data is None:
            return {self.preview: sentence_html(self._no_data(values, speech))}
        return self._report(values, data, speech)

    def on_columns(self, values: Updates, request: gr.Request) -> Updates:
        """Other columns are another task: the sentence is proposed anew."""
        data = self._data(values)
        return self.on_preview(values, request) | (self._proposal(data) if data else {})

    def on_propose(self, values: Updates, request: gr.Request) -> Updates:
        data = self._data(values)
        if data is None:
            return {self.tried: sentence_html(self._no_data(values, speech_for(request)))}
        return self._proposal(data)

    def on_try(self, values: Updates, request: gr.Request) -> Updates:
        speech, data = speech_for(request), self._data(values)
        if data is None:
            return {self.tried: sentence_html(self._no_data(values, speech))}
        try:
            trials = self.services.training.try_sentence(data, self._form(values))
        except ChatGLMError as error:
            return {self.tried: sentence_html(problem_text(error, speech), "failed")}
        return {self.tried: trials_html(trials, speech)}

    @open_to_all
    def on_preset(self, values: Updates, request: gr.Request) -> Updates:
        name = values[self.form["preset"]]
        reason = speech_for(request).pick(*preset_reason(name))
        filled = preset_values(name, self.services.training.defaults)
        current = {setting: values[self.form[setting]] for setting in filled}
        keep = refill(filled, values[self.filled], current).get("keep", current["keep"])
        filled |= steps_beside(keep, name, self.services.training.defaults)
        changed = refill(filled, values[self.filled], current)
        shown = {self.form[setting]: value for setting, value in changed.items()}
        return {self.preset_reason: sentence_html(reason), self.filled: filled, **shown}

    @open_to_all
    def on_keep(self, values: Updates) -> Updates:
        """Most wants more steps, unless a preset or a person says how many."""
        preset, steps, filled = values[self.form["preset"]], self.form["max_steps"], values[self.filled]
        wanted = steps_beside(values[self.form["keep"]], preset, self.services.training.defaults)
        changed = refill(wanted, filled, {"max_steps": values[steps]})
        return {steps: changed.get("max_steps", gr.skip()), self.filled: {**filled, **wanted}}

    @open_to_all
    def on_learns(self, learns: str) -> Updates:
        """All weights have a rate of their own, no prefix length, and no preset: those are for prefixes."""
        prefix = learns == PREFIX
        rate = self.services.training.defaults.get("learning_rate", PREFIX_LEARNING_RATE)
        updates = {
            self.form["pre_seq_len"]: gr.Number(visible=prefix),
            self.form["learning_rate"]: rate if prefix else FULL_LEARNING_RATE,
            self.start_box: gr.Column(visible=prefix),
            self.form["keep"]: gr.Radio(visible=prefix),
            self.form["preset"]: gr.Dropdown(visible=prefix) if prefix else gr.Dropdown(value="", visible=False),
        }
        return updates if prefix else {**updates, self.preset_reason: ""}

    # Handlers: cost

    @open_to_all
    def on_cost_key(self, key: str) -> Any:
        found = self.services.training.cost_key() if self.services.host.is_ready else ""
        return gr.skip() if found == key else found

    @open_to_all
    def on_cost(self, values: Updates, request: gr.Request) -> Updates:
        speech, data = speech_for(request), self._data(values)
        nothing = {self.changes: {}, self.fit: gr.Button(visible=False)}
        if not visitor_of(request).may_change:  # a preset changes the form for everybody, and asks
            return {self.cost: "", **nothing}
        if data is None or not self.services.host.is_ready:
            return {self.cost: "", **nothing}
        try:
            cost = self.services.training.cost(data, self._form(values))
        except ChatGLMError as error:
            return {self.cost: sentence_html(problem_text(error, speech), "failed"), **nothing}
        fitting = {name: value for name, value in cost.changes.items() if name in FITTED}
        return {
            self.cost: cost_html(cost, speech),
            self.changes: fitting,
            self.fit: gr.Button(visible=bool(fitting)),
        }

    def on_fit(self, changes: dict[str, Any], request: gr.Request) -> Updates:
        say(speech_for(request)("fit_done"))
        values = {self.form[name]: "" if value is None else value for name, value in changes.items()}
        return {**values, self.fit: gr.Button(visible=False)}

    # Handlers: runs

    def on_start(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        data = self._data(values)
        if data is None:
            say(self._no_data(values, speech))
            return {self.viewer: gr.skip()}
        try:
            run = self.services.training.start(data, self._form(values), values[self.name])
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.viewer: gr.skip(), **self.on_cost(values, request)}
        say(speech("started"))
        return self._show(Viewer(picked=run.name), speech)

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
        name = viewer.picked if viewer.picked in names else names[0]
        view = self.services.training.view(name)
        mark = fingerprint(view, names)
        if mark == viewer.fingerprint:
            return {self.viewer: gr.skip()}
        offered = view.offered_checkpoint
        return {
            self.viewer: Viewer(None if name == names[0] else name, name, mark),
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
            self.log: log_html(view.log or speech("no_log")),
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
            self.log: log_html(speech("no_log")),
        }

    def _report(self, values: Updates, data: DataChoice, speech: Speech) -> Updates:
        try:
            report = self.services.training.describe(data, self._form(values))
        except ChatGLMError as error:
            return {self.preview: sentence_html(problem_text(error, speech), "failed")}
        return {self.preview: dataset_html(report, speech)}

    def _proposal(self, data: DataChoice) -> Updates:
        """A sentence for these rows; none where they cannot be read, which the preview says."""
        try:
            return {self.form["prefix_text"]: self.services.training.propose_sentence(data), self.tried: ""}
        except ChatGLMError:
            return {self.form["prefix_text"]: "", self.tried: ""}

    def _path(self, values: Updates) -> str | None:
        if values[self.source] == LIKED:
            return str(self.services.liked.file) if self.services.liked.file.exists() else None
        return self.services.training.sample_path() if values[self.source] == SAMPLE else values[self.file]

    def _no_data(self, values: Updates, speech: Speech) -> str:
        return speech("nothing_liked" if values[self.source] == LIKED else "choose_file")

    def _data(self, values: Updates) -> DataChoice | None:
        path = self._path(values)
        if path is None or values[self.source] != UPLOAD:
            return None if path is None else DataChoice(path)
        return DataChoice(path, **{name: values[column] or None for name, column in self.columns.items()})

    def _form(self, values: Updates) -> dict[str, Any]:
        return {name: values[component] for name, component in self.form.items()}
