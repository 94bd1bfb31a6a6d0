"""What all parts of Compare share: the conversation, what a browser keeps of it, and the panes that show it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import gradio as gr

from app.chat.conversation import Conversation
from app.tabs.panes import Pane
from app.text.languages import Speech
from app.views.chat_view import facts_html, shown_messages

Updates = dict[Any, Any]
# A browser stores nothing that is empty; what was there before would stay.
NOTHING_HEARD = {"rounds": 0}


class Part(Protocol):
    """What shows something of the conversation beside the panes."""

    @property
    def outputs(self) -> list[Any]:
        """Components that `show` touches."""

    def show(self, conversation: Conversation, speech: Speech) -> Updates:
        """The part as ``conversation`` is now."""


class Stage:
    """Built inside ``gr.Blocks``; the panes are told to it once they are there."""

    def __init__(self) -> None:
        self._beginning = threading.Lock()
        self.conversation = gr.State(Conversation())
        self.saved = gr.BrowserState(None, storage_key="chatglm-conversation", secret="chatglm")
        self.heard = gr.BrowserState({}, storage_key="chatglm-heard", secret="chatglm")
        self.panes: Mapping[str, Pane] = {}
        self.parts: list[Part] = []

    @property
    def kept(self) -> set[Any]:
        """What `begin` needs of a browser."""
        return {self.conversation, self.saved, self.heard}

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `put` touch."""
        shown = [component for pane in self.panes.values() for component in (pane.chat, pane.facts)]
        beside = [component for part in self.parts for component in part.outputs]
        return [self.conversation, self.saved, self.heard, *shown, *beside]

    def begin(self, values: Updates) -> bool:
        """What this browser kept, taken up by whatever it does first; the value stays the session's own object.

        Returns:
            Whether this call was the first.
        """
        with self._beginning:
            return bool(values[self.conversation].begin(values[self.saved], values[self.heard]))

    def show(self, conversation: Conversation, speech: Speech) -> Updates:
        """Both panes with ``conversation`` as it is, and what stands beside them."""
        updates: Updates = {}
        for name, pane in self.panes.items():
            updates[pane.chat] = shown_messages(conversation, name, speech)
            updates[pane.facts] = facts_html(conversation, name, speech)
        for part in self.parts:
            updates |= part.show(conversation, speech)
        return updates

    def put(self, conversation: Conversation, before: Conversation, speech: Speech) -> Updates:
        """A conversation in the place of the one ``before``, on the page and in what the browser keeps."""
        conversation.begun, conversation.view = True, before.view
        return {
            **self.show(conversation, speech),
            self.conversation: conversation,
            self.saved: conversation.to_dict(),
            self.heard: NOTHING_HEARD,
        }
