"""The thumb and the pencil beside an answer: what is liked or put right becomes a row to train on.

For everybody it is marked in the conversation, from where it can be saved as a file. What those who may change things
like also goes into a file on this machine, which Train offers.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import Conversation
from app.chat.judging.liked import LikedRows, row_of
from app.tabs.access import open_to_all, visitor_of
from app.tabs.comparing.stage import Stage, Updates
from app.tabs.listening import ASKED, say, say_problem
from app.tabs.translations import speech_for
from app.views.chat_view import round_index, shown_messages
from app.views.rendering import question_from_markdown
from chatglm2.errors import ChatGLMError


class Liking:
    """Handles what is pressed beside an answer; the panes have the buttons."""

    def __init__(self, stage: Stage, rows: LikedRows) -> None:
        self.stage, self.rows = stage, rows

    def bind(self) -> None:
        """Connects the thumbs; editing is connected where questions are edited, too."""
        for pane in self.stage.panes.values():
            pane.chat.like(self.on_like(pane.name), [self.stage.conversation], self.stage.outputs, **ASKED)

    def on_like(self, pane: str) -> Any:
        @open_to_all
        def handler(conversation: Conversation, event: gr.LikeData, request: gr.Request) -> Updates:
            place = event.index if isinstance(event.index, int) else event.index[0]
            return self._set(conversation, pane, place, request, liked=event.liked is True)

        return handler

    def is_answer(self, conversation: Conversation, pane: str, place: int) -> bool:
        """Whether the message at ``place`` of what ``pane`` shows is an answer."""
        shown = shown_messages(conversation, pane, speech_for(None))
        return 0 <= place < len(shown) and shown[place]["role"] == "assistant"

    def edit(self, conversation: Conversation, pane: str, place: int, text: str, request: gr.Request) -> Updates:
        """Puts an answer right; it is liked from then on."""
        return self._set(conversation, pane, place, request, liked=True, text=text)

    def _set(
        self,
        conversation: Conversation,
        pane: str,
        place: int,
        request: gr.Request,
        *,
        liked: bool,
        text: str | None = None,
    ) -> Updates:
        speech, index = speech_for(request), round_index(conversation, place)
        if conversation.streaming or index < 0:
            return self.stage.show(conversation, speech)
        side = conversation.rounds[index].side(pane)
        answer = conversation.rounds[index].answers[side]
        wrote, before = visitor_of(request).may_change, row_of(conversation, index, side)
        if not answer.text or answer.error or (text is not None and not text.strip()):
            return self.stage.show(conversation, speech)
        if text is not None and text != answer.text:
            answer.text, answer.edited = question_from_markdown(text), True
        answer.liked = liked
        try:
            if wrote:
                self.rows.remove(before)
            if wrote and liked:
                self.rows.add(row_of(conversation, index, side))
        except ChatGLMError as error:
            say_problem(error, speech)
        else:
            if liked:
                say(speech("liked_on_disk" if wrote else "liked_in_browser"))
        return {**self.stage.show(conversation, speech), self.stage.saved: conversation.to_dict()}
