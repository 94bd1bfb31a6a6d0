"""The data of the Train tab, looked at: what is wrong with it, its rows, and files without what is wrong.

Builds the components and names the handlers. What is found is behind ``services.training.doctor``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app.services import Services
from app.tabs.listening import QUIET, WORKING, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.training.form import problem_text
from app.training.service import DataChoice
from app.views.data_doctor import findings_html, row_html, rows_html
from app.views.fragments import sentence_html
from chatglm2.errors import ChatGLMError
from training.data.doctor.findings import Kind
from training.data.doctor.mending import Fix

ROWS_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, key: button.dataset.key });
});
"""
SHOW_ROW_SCRIPT = "() => document.querySelector('#data-row')?.scrollIntoView({ block: 'nearest' })"
LIMITS = ("max_source_length", "max_target_length")
Updates = dict[Any, Any]


class DataPart:
    """Built below the choice of data: findings where a file is chosen, rows in the preview.

    ``file`` holds one's own, ``fields`` the settings. Of what a handler is given, ``data_of`` says which data is
    chosen, and ``settings_of`` what the form says.
    """

    def __init__(
        self,
        services: Services,
        file: Any,
        fields: dict[str, Any],
        data_of: Callable[[Updates], DataChoice | None],
        settings_of: Callable[[Updates], dict[str, Any]],
    ) -> None:
        self.services, self.data_of, self.settings_of = services, data_of, settings_of
        self.file, self.fields = file, fields
        self.page, self.limits = gr.State(0), gr.State({})
        self.split_off = gr.State("")  # the validation data that the page made
        self.findings = gr.HTML(elem_id="data-findings")
        with gr.Row(visible=False, elem_id="data-fixes") as self.fixes:
            self.buttons = {
                name: gr.Button(word(name), size="sm", min_width=140, elem_id=name.replace("_", "-"))
                for name in ("drop_duplicates", "drop_empty", "set_limits", "split_data")
            }

    def build_rows(self) -> None:
        """The rows, where the preview is."""
        self.search = gr.Textbox(
            placeholder=word("search_data"), label=word("search_data"), show_label=False, container=False, max_lines=1,
            elem_id="search-data",
        )  # fmt: skip
        self.rows = gr.HTML(js_on_load=ROWS_SCRIPT, elem_id="data-rows")
        with gr.Row(elem_id="data-pages"):
            self.previous = gr.Button(word("previous_rows"), size="sm", min_width=90, elem_id="previous-rows")
            self.next = gr.Button(word("next_rows"), size="sm", min_width=90, elem_id="next-rows")
        self.row = gr.HTML(elem_id="data-row")

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`show` changes."""
        return [self.findings, self.fixes, *self.buttons.values(), self.limits, *self.listed]

    @property
    def listed(self) -> list[Any]:
        return [self.page, self.rows, self.previous, self.next, self.row]

    @property
    def controls(self) -> list[Any]:
        """What a visitor who may only watch cannot use."""
        return [*self.buttons.values(), self.search, self.previous, self.next]

    def bind(self, asked: set[Any]) -> None:
        """Connects everything to its handler; ``asked`` says what to train on, and how."""
        asked = {*asked, self.search, self.page}
        self.search.change(self.on_search, asked, self.listed, trigger_mode="always_last", **WORKING)
        self.previous.click(self.on_previous, asked, self.listed, **WORKING)
        self.next.click(self.on_next, asked, self.listed, **WORKING)
        self.rows.click(self.on_row, asked, [self.row], **WORKING).then(None, None, None, js=SHOW_ROW_SCRIPT, **QUIET)
        self.buttons["drop_duplicates"].click(self.on_drop_duplicates, asked, [self.file], **WORKING)
        self.buttons["drop_empty"].click(self.on_drop_empty, asked, [self.file], **WORKING)
        parts = [self.file, self.fields["validation_file"], self.split_off]
        self.buttons["split_data"].click(self.on_split, asked, parts, **WORKING)
        limits = [*(self.fields[name] for name in LIMITS), *self.outputs]
        self.buttons["set_limits"].click(self.on_limits, {*asked, self.limits}, limits, **WORKING)

    def show(self, values: Updates, data: DataChoice, speech: Speech) -> Updates:
        """What is wrong with the data, what would mend it, and its first rows."""
        try:
            found = self.services.training.doctor.examine(data, self.settings_of(values))
        except ChatGLMError as error:
            return {**self.hide(), self.findings: sentence_html(problem_text(error, speech), "failed")}
        own, first = self._is_own(values, data), found[0]
        useful = {
            "drop_duplicates": own and first.has(Kind.DUPLICATE),
            "drop_empty": own and first.has(Kind.EMPTY),
            "set_limits": bool(first.limits),
            "split_data": own and not values[self.fields["validation_file"]],
        }
        return {
            self.findings: findings_html(found, speech),
            self.fixes: gr.Row(visible=any(useful.values())),
            **{self.buttons[name]: gr.Button(visible=shown) for name, shown in useful.items()},
            self.limits: first.limits,
            **self._listed(values, data, "", 0, speech),
        }

    def drop_split(self, values: Updates, path: str) -> Updates:
        """Another file is not validated on the rows that were split off the last one."""
        dev, field = Path(values[self.split_off] or ""), self.fields["validation_file"]
        kin = Path(path).stem.startswith(dev.stem.removesuffix("dev") + "train")
        stale = bool(values[self.split_off]) and values[field] == str(dev) and not kin
        return {field: "", self.split_off: ""} if stale else {}

    def hide(self) -> Updates:
        """Nothing of any data."""
        nothing: Updates = {self.findings: "", self.fixes: gr.Row(visible=False), self.limits: {}, self.page: 0}
        buttons = {button: gr.Button(visible=False) for button in (self.previous, self.next)}
        return {**nothing, self.rows: "", self.row: "", **buttons}

    # Handlers

    def on_search(self, values: Updates, request: gr.Request) -> Updates:
        return self._turned(values, 0, speech_for(request))

    def on_previous(self, values: Updates, request: gr.Request) -> Updates:
        return self._turned(values, values[self.page] - 1, speech_for(request))

    def on_next(self, values: Updates, request: gr.Request) -> Updates:
        return self._turned(values, values[self.page] + 1, speech_for(request))

    def on_row(self, values: Updates, event: gr.EventData, request: gr.Request) -> Updates:
        speech, data, key = speech_for(request), self.data_of(values), str(event.key)
        if data is None or not key.isdecimal():
            return {self.row: gr.skip()}
        try:
            row = self.services.training.doctor.row(data, self.settings_of(values), int(key))
        except ChatGLMError as error:
            return {self.row: sentence_html(problem_text(error, speech), "failed")}
        return {self.row: gr.skip() if row is None else row_html(row, speech)}

    def on_drop_duplicates(self, values: Updates, request: gr.Request) -> Updates:
        return self._mended(values, Fix.DUPLICATES, speech_for(request))

    def on_drop_empty(self, values: Updates, request: gr.Request) -> Updates:
        return self._mended(values, Fix.EMPTY, speech_for(request))

    def on_split(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)

        def split(data: DataChoice) -> Updates:
            train, dev = self.services.training.doctor.split(data, self.settings_of(values))
            say(speech("data_split", train=train.name, dev=dev.name))
            return {self.file: str(train), self.fields["validation_file"]: str(dev), self.split_off: str(dev)}

        return self._own_file(values, split, speech)

    def on_limits(self, values: Updates, request: gr.Request) -> Updates:
        speech, data = speech_for(request), self.data_of(values)
        if data is None:
            return {self.row: gr.skip()}
        wider = {self.fields[name]: limit for name, limit in values[self.limits].items() if name in LIMITS}
        say(speech("limits_set"))
        return {**wider, **self.show({**values, **wider}, data, speech)}

    # Behind the handlers

    def _is_own(self, values: Updates, data: DataChoice) -> bool:
        """Whether it was uploaded, so that the page may write beside it."""
        return bool(data.path == values[self.file])

    def _turned(self, values: Updates, number: int, speech: Speech) -> Updates:
        data = self.data_of(values)
        if data is None:
            return {self.page: gr.skip()}
        return self._listed(values, data, values[self.search], number, speech)

    def _listed(self, values: Updates, data: DataChoice, query: str, number: int, speech: Speech) -> Updates:
        try:
            page = self.services.training.doctor.rows(data, self.settings_of(values), query, number)
        except ChatGLMError as error:
            return {self.rows: sentence_html(problem_text(error, speech), "failed")}
        return {
            self.page: page.number,
            self.rows: rows_html(page, speech),
            self.previous: gr.Button(visible=page.pages > 1, interactive=page.number > 0),
            self.next: gr.Button(visible=page.pages > 1, interactive=page.number < page.pages - 1),
            self.row: "",
        }

    def _mended(self, values: Updates, fix: Fix, speech: Speech) -> Updates:
        def mend(data: DataChoice) -> Updates:
            file: Path = self.services.training.doctor.mend(data, self.settings_of(values), fix)
            say(speech("mended", file=file.name))
            return {self.file: str(file)}

        return self._own_file(values, mend, speech)

    def _own_file(self, values: Updates, change: Callable[[DataChoice], Updates], speech: Speech) -> Updates:
        """What ``change`` makes of an uploaded file; nothing is written beside any other."""
        data = self.data_of(values)
        if data is None or not self._is_own(values, data):
            return {self.file: gr.skip()}
        try:
            return change(data)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.file: gr.skip()}
