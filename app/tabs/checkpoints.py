"""The Checkpoints tab: every checkpoint of every run, and what can be done with it.

Builds the components and names the handlers; the table's buttons carry an action and a key.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import PANES
from app.chat.sources import Broken
from app.services import Services
from app.tabs.access import OperatorControls, open_to_all, visitor_of
from app.tabs.clock import Clock
from app.tabs.compare import CompareTab
from app.tabs.library.card import SHOW_SCRIPT, CardPanel
from app.tabs.library.taking import Taking
from app.tabs.listening import ASKED, QUIET, say, say_problem, warn
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.checkpoint_table import DOWNLOAD_FRAME, EVERYTHING, Wanted, checkpoint_table
from app.views.fragments import sentence_html
from chatglm2.errors import ChatGLMError
from training.library.entry import tags_of

# A download leaves its frame empty; what arrives there is the sentence that says why there is none.
TABLE_SCRIPT = """
const frame = document.createElement("iframe");
frame.name = "DOWNLOAD_FRAME";
frame.hidden = true;
frame.addEventListener("load", () => {
  const sentence = frame.contentDocument?.body?.textContent;
  if (sentence) trigger("click", { action: "problem", key: sentence });
});
document.body.append(frame);
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  window.opensCard = button.dataset.action === "card";
  trigger("click", { action: button.dataset.action, key: button.dataset.key });
});
""".replace("DOWNLOAD_FRAME", DOWNLOAD_FRAME)
Updates = dict[Any, Any]


class CheckpointsTab:
    """Built inside a ``gr.Tab``; :meth:`bind` wires it once every tab is there."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.doomed = gr.State("")
        self.shown = gr.State("")
        self.wanted, self.known_tags = gr.State(EVERYTHING), gr.State([])
        self.controls = OperatorControls("checkpoints-key")
        with gr.Row(visible=False, elem_id="delete-question", elem_classes=["notice", "question"]) as self.question_box:
            self.question = gr.HTML()
            self.delete_no = gr.Button(word("delete_no"), size="sm", scale=0, min_width=100, elem_id="delete-no")
            self.delete_yes = gr.Button(
                word("delete_yes"), variant="stop", size="sm", scale=0, min_width=100, elem_id="delete-yes"
            )
        self.card = CardPanel(services)
        with gr.Row(elem_id="find-prefixes"):
            self.words = gr.Textbox(
                label=word("find_prefix"),
                info=word("find_prefix_help"),
                max_lines=1,
                scale=3,
                min_width=220,
                elem_id="find-words",
            )
            self.tags = gr.Dropdown(
                [],
                multiselect=True,
                label=word("with_tags"),
                info=word("with_tags_help"),
                scale=2,
                min_width=200,
                visible=False,
                elem_id="find-tags",
            )
        self.table = gr.HTML(js_on_load=TABLE_SCRIPT, elem_id="checkpoint-table")
        self.taking = Taking(services)

    def bind(self, demo: gr.Blocks, clock: Clock, compare: CompareTab) -> None:
        """Connects everything to its handler."""
        self.compare_tab = compare
        tabled = [self.table, self.shown]
        asked = [self.doomed, self.question_box, self.question]
        drawn_from = [compare.chosen, self.wanted]
        acted = [*compare.chosen_outputs(), *tabled, *asked, *self.card.outputs]
        self.table.click(self.on_action, drawn_from, acted, **ASKED).then(None, None, None, js=SHOW_SCRIPT, **QUIET)
        self.delete_yes.click(self.on_delete, [self.doomed, *drawn_from], [*tabled, *asked], **ASKED)
        self.delete_no.click(self.on_keep, None, asked, **QUIET)
        found = [self.wanted, *tabled]
        gr.on(
            [self.words.change, self.tags.input],
            self.on_find,
            [self.words, self.tags, compare.chosen],
            found,
            trigger_mode="always_last",
            **QUIET,
        )
        self.card.bind(self._table, drawn_from, tabled)
        self.taking.bind(self._table, drawn_from, tabled)
        self.controls.bind(demo, self.taking.components)
        ticked = [*tabled, self.tags, self.known_tags]
        for listen in (demo.load, clock.tick):
            listen(self.on_tick, [self.shown, *drawn_from, self.known_tags], ticked, **QUIET)

    # Handlers

    @open_to_all
    def on_action(self, chosen: dict[str, str], wanted: Wanted, event: gr.EventData, request: gr.Request) -> Updates:
        speech = speech_for(request)
        action, key = str(event.action), str(event.key)
        if action == "delete" and visitor_of(request).may_change:
            return self._ask(key, speech)
        if action == "card":
            return self.card.open(key, request)
        if action == "problem":
            warn(key)
        if action not in PANES:
            return {self.shown: gr.skip()}
        updates = self.compare_tab.choose(action, key, chosen, speech)
        if chosen[action] == key:
            say(speech(f"loaded_{action}", name=self.services.sources.find(key).name))
        return {**updates, **self._table(chosen, wanted, speech, may_change=visitor_of(request).may_change)}

    def on_delete(self, key: str, chosen: dict[str, str], wanted: Wanted, request: gr.Request) -> Updates:
        speech = speech_for(request)
        try:
            broken = self.services.sources.find_broken(key)
            name = broken.name if broken else self.services.sources.find(key).name
            self.services.sources.delete(key)
        except ChatGLMError as error:
            say_problem(error, speech)
        else:
            say(speech("deleted", name=name))
        return {**self._table(chosen, wanted, speech), **self.on_keep()}

    @open_to_all
    def on_keep(self) -> Updates:
        return {self.doomed: "", self.question_box: gr.Row(visible=False)}

    @open_to_all
    def on_find(self, words: str, tags: list[str] | None, chosen: dict[str, str], request: gr.Request) -> Updates:
        wanted = Wanted(words or "", tuple(tags or ()))
        drawn = self._table(chosen, wanted, speech_for(request), may_change=visitor_of(request).may_change)
        return {self.wanted: wanted, **drawn}

    @open_to_all
    def on_tick(
        self, shown: str, chosen: dict[str, str], wanted: Wanted, known_tags: list[str], request: gr.Request
    ) -> Updates:
        updates = self._table(chosen, wanted, speech_for(request), may_change=visitor_of(request).may_change)
        drawn = updates if updates[self.shown] != shown else {self.shown: gr.skip()}
        tags = tags_of(source.entry for source in self.services.sources.sources() if source.entry is not None)
        if tags == known_tags:
            return drawn
        return {**drawn, self.known_tags: tags, self.tags: gr.Dropdown(tags, visible=bool(tags))}

    # Behind the handlers

    def _table(self, chosen: dict[str, str], wanted: Wanted, speech: Speech, *, may_change: bool = True) -> Updates:
        sources = self.services.sources
        table = checkpoint_table(
            sources.sources(), chosen, speech, sources.broken(), may_change=may_change, wanted=wanted
        )
        return {self.table: table, self.shown: table}

    def _ask(self, key: str, speech: Speech) -> Updates:
        try:
            doomed = self.services.sources.find_broken(key) or self.services.sources.find(key)
        except ChatGLMError as error:
            say_problem(error, speech)
            return self.on_keep()
        is_ours = doomed.of_run if isinstance(doomed, Broken) else doomed.is_ours
        whole_run = isinstance(doomed, Broken) and doomed.of_run
        text = "delete_run_question" if whole_run else "delete_question" if is_ours else "forget_question"
        return {
            self.doomed: key,
            self.question: sentence_html(speech(text, name=doomed.name), "plain"),
            self.question_box: gr.Row(visible=True),
        }
