"""The form of the Train tab: which data, what to do with it, and what that would cost.

Builds the components and names the handlers that change nothing but the form. What a run does is `app.tabs.train`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.changed_settings import ChangedSettings
from app.tabs.clock import Clock
from app.tabs.listening import ASKED, QUIET, WORKING, say
from app.tabs.settings_form import build_setting
from app.tabs.training.data import LIMITS, DataPart
from app.tabs.training.prompt_lines import as_lines, build_prompts
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.care import CopiedForm
from app.training.form import by_topic, form_fields, preset_reason, preset_values, problem_text, refill, steps_beside
from app.training.served import ALL_WEIGHTS, LEARNS, PREFIX
from app.training.service import DataChoice
from app.views.dataset import dataset_html, trials_html
from app.views.fragments import sentence_html
from app.views.run_cost import cost_html
from chatglm2.errors import ChatGLMError
from training.data.files import SUFFIXES
from training.settings.train import FULL_LEARNING_RATE, PREFIX_LEARNING_RATE

SAMPLE, UPLOAD, LIKED, OF_RUN = "sample", "upload", "liked", "of run"
# What may be changed so that a run fits; see `training.plan.fitting`.
FITTED = (
    *("max_source_length", "max_target_length", "gradient_checkpointing"),
    *("quantization_bit", "dtype", "prefix_projection"),
)
Updates = dict[Any, Any]


class TrainForm:
    """Data, settings and Start, in the column where it is built."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.form: dict[str, Any] = {}
        self._build_data()
        self._build_form()

    @property
    def asked(self) -> set[Any]:
        """The components that say what to train on, and how."""
        return {self.file_of_run, *self.typed}

    @property
    def typed(self) -> list[Any]:
        """Those of them that a person sees."""
        return [self.source, self.file, *self.columns.values(), *self.form.values()]

    def _build_data(self) -> None:
        self.source = gr.Radio(
            [(word("data_sample"), SAMPLE), (word("data_upload"), UPLOAD), (word("data_liked"), LIKED)],
            value=SAMPLE,
            label=word("data"),
            elem_id="data-source",
        )
        self.file_of_run = gr.State("")  # what a run trained whose settings were copied
        self.file = gr.File(
            label=word("upload_label"),
            file_types=list(SUFFIXES),
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
        self.data = DataPart(self.services, self.file, self.form, self.data_of, self.values_of)
        with gr.Accordion(word("data_preview"), open=False, elem_id="data-preview") as self.preview_box:
            self.data.build_rows()
            self.preview = gr.HTML(elem_id="data-report")

    def _build_form(self) -> None:
        defaults = self.services.training.defaults
        self.proposed = self.services.training.propose(DataChoice(self.services.training.sample_path()))
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
        self.changed = ChangedSettings(defaults)
        with gr.Accordion(word("more_settings"), open=False, elem_id="more-settings"):
            self._build_more_settings()
        with gr.Accordion(word("pinned_before"), open=False, elem_id="pinned-before-box"):
            self.pins = build_prompts(self.proposed.prompts, "pinned_before_help", "pinned-before")
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
        with gr.Column(elem_id="prefix-start") as self.start_box:
            self.form["prefix_text"] = gr.Textbox(
                self.proposed.sentence,
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

    # A run's settings

    def copied_outputs(self) -> list[Any]:
        """What :meth:`fill` may change."""
        data = [self.source, self.file, self.file_of_run, self.columns_row, *self.columns.values(), self.preview]
        return [
            *data,
            *self.data.outputs,
            self.preset_reason,
            self.start_box,
            self.tried,
            self.pins,
            *self.form.values(),
        ]

    def fill(self, run: str, copied: CopiedForm, speech: Speech) -> Updates:
        """What puts a run's settings, and its data, into the form.

        Raises:
            ChatGLMError: its data cannot be read here.
        """
        values = {name: "" if value is None else value for name, value in copied.values.items()}
        prefix = values[LEARNS] == PREFIX
        updates: Updates = {self.form[name]: value for name, value in values.items()}
        updates[self.start_box] = gr.Column(visible=prefix)
        updates[self.form["preset"]] = gr.Dropdown(value="", visible=prefix)
        updates[self.preset_reason] = ""
        length = self.form["pre_seq_len"]
        updates[length] = gr.Number(updates[length], visible=True) if prefix else gr.Number(visible=False)
        updates[self.form["keep"]] = self._keep_choice(copied, speech)
        updates |= {self.tried: "", self.preview: "", self.pins: as_lines(copied.pins), **self.data.hide()}
        return {**updates, **self._data_of_run(run, copied, speech)}

    def _keep_choice(self, copied: CopiedForm, speech: Speech) -> Any:
        """The three answers, and a fourth where a run has another number."""
        choices = [(speech(f"keep_{name}"), value) for name, value in (("off", 0.0), ("some", 0.5), ("most", 1.0))]
        kept = float(copied.values["keep"])
        if kept not in [value for _, value in choices]:
            choices.append((f"{kept:g}", kept))
        return gr.Radio(choices, value=kept, visible=copied.values[LEARNS] == PREFIX)

    def _data_of_run(self, run: str, copied: CopiedForm, speech: Speech) -> Updates:
        choices = [(speech("data_sample"), SAMPLE), (speech("data_upload"), UPLOAD), (speech("data_liked"), LIKED)]
        hidden = {self.file: gr.File(visible=False), self.file_of_run: copied.file or ""}
        if copied.file is None:
            return {**hidden, self.source: gr.Radio(choices, value=SAMPLE), self.columns_row: gr.Row(visible=False)}
        names = self.services.training.columns(copied.file)
        choices.append((speech("data_of_run", run=run, file=Path(copied.file).name), OF_RUN))
        columns = {
            self.columns[name]: gr.Dropdown([("—", ""), *names], value=value if value in names else "")
            for name, value in copied.columns.items()
        }
        source = gr.Radio(choices, value=OF_RUN)
        return {**hidden, self.source: source, self.columns_row: gr.Row(visible=True), **columns}

    # Wiring

    def bind_form(self, demo: gr.Blocks, clock: Clock) -> None:
        """Connects what only changes the form."""
        data, sentence = self.asked, self.form["prefix_text"]
        looked_at, proposed = [self.preview, *self.data.outputs], [sentence, self.pins, self.tried]
        split = {self.data.split_off, self.form["validation_file"]}
        chosen_data = [self.columns_row, *self.columns.values(), *looked_at, *split, *proposed]
        self.source.input(self.on_source, [self.source], [self.file, self.columns_row, self.preview_box], **QUIET)
        gr.on([self.source.input, self.file.change], self.on_file, data | split, chosen_data, **WORKING)
        columns = [column.input for column in self.columns.values()]
        task = [*looked_at, *proposed]
        gr.on(columns, self.on_columns, data, task, trigger_mode="always_last", **WORKING)
        self.propose.click(self.on_propose, data, [sentence, self.tried], **WORKING)
        self.try_it.click(self.on_try, data, [self.tried], **WORKING)
        limits = [self.form[name].blur for name in LIMITS]
        gr.on([self.preview_box.expand, *limits], self.on_preview, data, looked_at, **WORKING)
        self.data.bind(data)
        preset, filled = self.form["preset"], [self.form[name] for name in preset_values("", {})]
        asked = {preset, self.filled, *filled}
        preset.input(self.on_preset, asked, [self.preset_reason, self.filled, *filled], **QUIET)
        self.form["keep"].input(self.on_keep, asked, [self.form["max_steps"], self.filled], **QUIET)
        learning = [self.form[name] for name in ("pre_seq_len", "learning_rate", "preset")]
        shown = [*learning, self.preset_reason, self.start_box, self.form["keep"]]
        self.learns.input(self.on_learns, [self.learns], shown, **QUIET)
        self._bind_cost(clock, data)
        self.changed.bind(demo, self.form)

    def _bind_cost(self, clock: Clock, data: set[Any]) -> None:
        """The cost follows the form: while it is asked for, what changes meanwhile is asked for once, afterwards."""
        asked = [self.cost_key.change, *(component.change for component in data)]
        gr.on(asked, self.on_cost, data, self._cost_outputs(), trigger_mode="always_last", **QUIET)
        clock.tick(self.on_cost_key, [self.cost_key], [self.cost_key], **QUIET)
        numbers = [self.form[name] for name in FITTED]
        self.fit.click(self.on_fit, [self.changes], [*numbers, self.fit], **ASKED)

    def _cost_outputs(self) -> list[Any]:
        return [self.cost, self.changes, self.fit]

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
            return {**self.data.hide(), self.preview: sentence_html(self._no_data(values, speech))}
        try:
            names = self.services.training.columns(path)
        except ChatGLMError as error:
            return {self.columns_row: gr.Row(visible=False), **self._unreadable(error, speech)}
        updates: Updates = {self.columns_row: gr.Row(visible=values[self.source] in (UPLOAD, OF_RUN))}
        chosen = [values[column] for column in self.columns.values() if values[column]]
        keeps = all(column in names for column in chosen)  # as in the file that it was made of
        for column in self.columns.values():
            updates[column] = gr.Dropdown([("—", ""), *names], value=values[column] if keeps else "")
        values = values | self.data.drop_split(values, path)
        split = {component: values[component] for component in (self.data.split_off, self.form["validation_file"])}
        data = (keeps and self.data_of(values)) or DataChoice(path)
        return updates | split | self._report(values, data, speech) | self._proposal(data)

    def on_preview(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        data = self.data_of(values)
        if data is None:
            return {self.preview: sentence_html(self._no_data(values, speech))}
        return self._report(values, data, speech)

    def on_columns(self, values: Updates, request: gr.Request) -> Updates:
        """Other columns are another task: the sentence is proposed anew."""
        data = self.data_of(values)
        return self.on_preview(values, request) | (self._proposal(data) if data else {})

    def on_propose(self, values: Updates, request: gr.Request) -> Updates:
        data = self.data_of(values)
        if data is None:
            return {self.tried: sentence_html(self._no_data(values, speech_for(request)))}
        proposal = self._proposal(data)
        del proposal[self.pins]  # somebody asked for a sentence
        return proposal

    def on_try(self, values: Updates, request: gr.Request) -> Updates:
        speech, data = speech_for(request), self.data_of(values)
        if data is None:
            return {self.tried: sentence_html(self._no_data(values, speech))}
        try:
            trials = self.services.training.try_sentence(data, self.values_of(values))
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
        speech, data = speech_for(request), self.data_of(values)
        nothing = {self.changes: {}, self.fit: gr.Button(visible=False)}
        if not visitor_of(request).may_change:  # a preset changes the form for everybody, and asks
            return {self.cost: "", **nothing}
        if data is None or not self.services.host.is_ready:
            return {self.cost: "", **nothing}
        try:
            cost = self.services.training.cost(data, self.values_of(values))
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

    # Behind the handlers

    def _report(self, values: Updates, data: DataChoice, speech: Speech) -> Updates:
        try:
            report = self.services.training.describe(data, self.values_of(values))
        except ChatGLMError as error:
            return self._unreadable(error, speech)
        return {self.preview: dataset_html(report, speech), **self.data.show(values, data, speech)}

    def _unreadable(self, error: ChatGLMError, speech: Speech) -> Updates:
        """Said where the file was chosen, not in the preview, which may be closed."""
        said = sentence_html(problem_text(error, speech), "failed")
        return {**self.data.hide(), self.preview: "", self.data.findings: said}

    def _proposal(self, data: DataChoice) -> Updates:
        """A sentence for these rows and those to watch; none where they cannot be read, which the preview says."""
        try:
            proposed = self.services.training.propose(data)
        except ChatGLMError:
            return {self.form["prefix_text"]: "", self.pins: "", self.tried: ""}
        return {self.form["prefix_text"]: proposed.sentence, self.pins: as_lines(proposed.prompts), self.tried: ""}

    def _path(self, values: Updates) -> str | None:
        if values[self.source] == OF_RUN:
            return values[self.file_of_run] or None
        if values[self.source] == LIKED:
            return str(self.services.liked.file) if self.services.liked.file.exists() else None
        return self.services.training.sample_path() if values[self.source] == SAMPLE else values[self.file]

    def _no_data(self, values: Updates, speech: Speech) -> str:
        return speech("nothing_liked" if values[self.source] == LIKED else "choose_file")

    def data_of(self, values: Updates) -> DataChoice | None:
        path = self._path(values)
        if path is None or values[self.source] in (SAMPLE, LIKED):
            return None if path is None else DataChoice(path)
        return DataChoice(path, **{name: values[column] or None for name, column in self.columns.items()})

    def values_of(self, values: Updates) -> dict[str, Any]:
        return {name: values[component] for name, component in self.form.items()}
