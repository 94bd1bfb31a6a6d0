"""The drawer of conversations: named, listed, begun, taken up again, deleted, saved as files and read from them.

All of it stays in the visitor's browser; the server keeps nothing. Files are read by the browser, too, so that those
who may not upload can bring theirs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import gradio as gr

from app.chat.conversation import Answer, Conversation
from app.chat.judging.liked import liked_rows, to_lines
from app.chat.keeping.files import read_conversation, to_json, to_markdown
from app.chat.keeping.shelf import Shelf
from app.tabs.access import open_to_all
from app.tabs.comparing.stage import Stage, Updates
from app.tabs.listening import ASKED, QUIET, say, say_problem
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.chat_view import answer_facts
from app.views.comparing.conversations import CURRENT, conversations_html, title_of
from app.views.fragments import sentence_html
from chatglm2.errors import ChatGLMError

JSON_FILE, MARKDOWN_FILE, ROWS_FILE = "json", "md", "jsonl"
MEDIA_TYPES = {JSON_FILE: "application/json", MARKDOWN_FILE: "text/markdown", ROWS_FILE: "application/jsonl"}
LIST_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, key: button.dataset.key });
});
"""
# A name that was typed since is newer than the one that is kept.
TITLE_UNLESS_TYPED = "(opened, typed) => typed === opened.shown ? opened.title : typed"
READ_FILE = "async (_, ...others) => [await window.readTextFile('.json,.md'), ...others]"


class Conversations:
    """A panel that a button opens; compare.js shows and hides it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.shelf = gr.BrowserState({}, storage_key="chatglm-shelf", secret="chatglm")
        self.doomed = gr.State(CURRENT)
        with gr.Column(elem_id="conversations", elem_classes="drawer"):
            self.name = gr.Textbox(label=word("conversation_name"), max_lines=1, elem_id="conversation-name")
            self.list = gr.HTML(js_on_load=LIST_SCRIPT, elem_id="conversation-list")
            with gr.Row(elem_classes="drawer-buttons"):
                self.new = gr.Button(
                    word("begin_conversation"), variant="primary", size="sm", min_width=60, elem_id="new-conversation"
                )
                self.save = {
                    kind: gr.Button(word(f"save_{kind}"), size="sm", min_width=60, elem_id=f"save-{kind}")
                    for kind in MEDIA_TYPES
                }
                self.read = gr.Button(word("read_file"), size="sm", min_width=60, elem_id="read-conversation")
            gr.Markdown(word("conversations_stay"), elem_classes="drawer-note")
        with gr.Row(visible=False, elem_id="forget-question", elem_classes=["notice", "question"]) as self.question_box:
            self.question = gr.HTML()
            self.keep = gr.Button(word("delete_no"), size="sm", scale=0, min_width=100, elem_id="forget-no")
            self.delete = gr.Button(
                word("delete_yes"), variant="stop", size="sm", scale=0, min_width=100, elem_id="forget-yes"
            )
        self.saved_file, self.read_text = gr.JSON(visible=False), gr.JSON(visible=False)
        self.opened = gr.JSON(visible=False)

    def bind(self, opener: gr.Button) -> None:
        """Connects everything to its handler; ``opener`` shows the panel."""
        both = [self.stage.conversation, self.shelf]
        shown = [*self.stage.outputs, self.shelf, self.list, self.name]
        asked = [self.doomed, self.question_box, self.question]
        opener.click(self.on_open, [self.name, *both], [self.list, self.opened], **ASKED).then(
            None, [self.opened, self.name], [self.name], js=TITLE_UNLESS_TYPED, **QUIET
        )
        self.new.click(self.on_new, both, shown, **ASKED)
        self.list.click(self.on_action, both, [*shown, *asked], **ASKED)
        self.delete.click(self.on_delete, [self.doomed, *both], [*shown, *asked], **ASKED)
        self.keep.click(self.on_keep, None, asked, **QUIET)
        named = [self.stage.saved, self.list]
        gr.on([self.name.submit, self.name.blur], self.on_rename, [self.name, *both], named, **ASKED)
        for kind, button in self.save.items():
            button.click(self.on_save(kind), [self.stage.conversation], [self.saved_file], **ASKED).then(
                None, [self.saved_file], None, js="(file) => window.saveExport(file)", **QUIET
            )
        self.read.click(self.on_read, [self.read_text, *both], shown, js=READ_FILE, **ASKED)

    # Handlers

    @open_to_all
    def on_open(self, shown: str, conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
        """The list, and the name beside the one that the field ``shown`` had when it was asked for."""
        listed = self._listed(conversation, Shelf.from_dict(stored), speech_for(request))
        return {self.list: listed[self.list], self.opened: {"title": listed[self.name], "shown": shown}}

    @open_to_all
    def on_new(self, conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
        return self._put_away(conversation, stored, lambda _: Conversation(), speech_for(request))

    @open_to_all
    def on_action(self, conversation: Conversation, stored: Any, event: gr.EventData, request: gr.Request) -> Updates:
        speech, action, key = speech_for(request), str(event.action), str(event.key)
        if action == "delete":
            return self._ask(conversation, Shelf.from_dict(stored), key, speech)
        return self._put_away(conversation, stored, lambda shelf: shelf.take(key), speech)

    @open_to_all
    def on_delete(self, key: str, conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
        speech, shelf = speech_for(request), Shelf.from_dict(stored)
        if key == CURRENT:
            if conversation.streaming:
                say(speech("still_answering"))
                return self.on_keep()
            return {**self._shown(Conversation(), conversation, shelf, speech), **self.on_keep()}
        try:
            shelf.take(key)
        except ChatGLMError as error:
            say_problem(error, speech)
        return {**self._listed(conversation, shelf, speech), self.shelf: shelf.to_dict(), **self.on_keep()}

    @open_to_all
    def on_keep(self) -> Updates:
        return {self.doomed: CURRENT, self.question_box: gr.Row(visible=False)}

    @open_to_all
    def on_rename(self, name: str, conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
        if not conversation.begun or name.strip() == conversation.title:
            return {self.list: gr.skip()}
        conversation.rename(name)
        listed = self._listed(conversation, Shelf.from_dict(stored), speech_for(request))
        return {self.stage.saved: conversation.to_dict(), self.list: listed[self.list]}

    def on_save(self, kind: str) -> Any:
        @open_to_all
        def handler(conversation: Conversation, request: gr.Request) -> Any:
            speech = speech_for(request)
            content = _content(conversation, kind, speech)
            if not content:
                say(speech("nothing_liked" if kind == ROWS_FILE else "nothing_to_export"))
                return None
            now = datetime.now().astimezone()
            return {"name": f"chatglm2-{now:%Y%m%d-%H%M%S}.{kind}", "page": content, "type": MEDIA_TYPES[kind]}

        return handler

    @open_to_all
    def on_read(self, content: Any, conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
        speech = speech_for(request)
        if not isinstance(content, str):  # nobody chose a file
            return {self.list: gr.skip()}
        return self._put_away(conversation, stored, lambda _: read_conversation(content), speech)

    # Behind the handlers

    def _put_away(self, conversation: Conversation, stored: Any, other: Any, speech: Speech) -> Updates:
        """Puts the conversation on the shelf and in its place what ``other`` gives for the shelf; both or neither."""
        if conversation.streaming:
            say(speech("still_answering"))
        if conversation.streaming or not conversation.begun:
            return {self.list: gr.skip()}
        shelf = Shelf.from_dict(stored)
        try:
            following = other(shelf)
            shelf.put(conversation)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {self.list: gr.skip()}
        return self._shown(following, conversation, shelf, speech)

    def _shown(self, conversation: Conversation, before: Conversation, shelf: Shelf, speech: Speech) -> Updates:
        return {
            **self.stage.put(conversation, before, speech),
            **self._listed(conversation, shelf, speech),
            self.shelf: shelf.to_dict(),
        }

    def _listed(self, conversation: Conversation, shelf: Shelf, speech: Speech) -> Updates:
        return {self.list: conversations_html(conversation, shelf, speech), self.name: conversation.title}

    def _ask(self, conversation: Conversation, shelf: Shelf, key: str, speech: Speech) -> Updates:
        try:
            doomed = conversation if key == CURRENT else shelf.take(key)
        except ChatGLMError as error:
            say_problem(error, speech)
            return self.on_keep()
        sentence = speech("delete_question", name=title_of(doomed, speech))
        return {
            self.doomed: key,
            self.question: sentence_html(sentence, "plain"),
            self.question_box: gr.Row(visible=True),
        }


def _content(conversation: Conversation, kind: str, speech: Speech) -> str:
    """The file's text; empty where there is nothing to save."""
    if kind == ROWS_FILE or not conversation.rounds:
        return to_lines(liked_rows(conversation))
    return to_json(conversation) if kind == JSON_FILE else to_markdown(conversation, _facts_in(speech))


def _facts_in(speech: Speech) -> Any:
    def facts(answer: Answer) -> str:
        return answer.error or answer_facts(answer, speech)

    return facts
