"""The blind vote: while nobody knows who is who, which answer is better; then who they were, and who wins how often.

Votes stay in the visitor's browser; `app.chat.judging.votes` says why.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.conversation import PANES, Conversation
from app.chat.judging.votes import Tally, Vote
from app.tabs.access import open_to_all
from app.tabs.comparing.stage import Stage, Updates
from app.tabs.listening import ASKED, QUIET, say
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.comparing.votes import votes_html

VOTES: tuple[Vote, ...] = ("left", "tie", "right")


class Voting:
    """The row of buttons under the panes, which is there while a vote is open."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tally = gr.BrowserState({}, storage_key="chatglm-votes", secret="chatglm")
        with gr.Row(visible=False, elem_id="vote") as self.row:
            self.buttons: dict[Vote, gr.Button] = {
                vote: gr.Button(word(f"vote_{vote}"), size="sm", min_width=90, elem_id=f"vote-{vote}") for vote in VOTES
            }

    def build_table(self) -> None:
        """Where the votes so far are shown, in whatever is being built."""
        self.table = gr.HTML(elem_id="votes")
        self.forget = gr.Button(word("forget_votes"), size="sm", visible=False, elem_id="forget-votes")

    def bind(self, demo: gr.Blocks) -> None:
        """Connects everything to its handler."""
        counted = [self.tally, self.table, self.forget]
        for vote, button in self.buttons.items():
            asked = [self.stage.conversation, self.tally]
            button.click(self.on_vote(vote), asked, [*self.stage.outputs, *counted], **ASKED)
        self.forget.click(self.on_forget, None, counted, **QUIET)
        demo.load(self.on_load, [self.tally], counted, **QUIET)

    @property
    def outputs(self) -> list[Any]:
        return [self.row]

    def show(self, conversation: Conversation, speech: Speech) -> Updates:
        """The buttons, as soon as both answers have ended."""
        answers = conversation.rounds[-1].answers.values() if conversation.rounds else ()
        ended = all(answer.text and answer.finish_reason and not answer.error for answer in answers)
        is_open = bool(conversation.rounds) and conversation.hides(len(conversation.rounds) - 1)
        return {self.row: gr.Row(visible=is_open and ended and not conversation.streaming)}

    # Handlers

    def on_vote(self, vote: Vote) -> Any:
        @open_to_all
        def handler(conversation: Conversation, stored: Any, request: gr.Request) -> Updates:
            speech, tally = speech_for(request), Tally.from_dict(stored)
            last = len(conversation.rounds) - 1
            if last < 0 or conversation.streaming or not conversation.hides(last):
                return {self.tally: gr.skip()}
            entry = conversation.rounds[last]
            left, right = (entry.answers[entry.side(pane)].who for pane in PANES)
            entry.vote = vote
            if left == right:
                say(speech("vote_same"))
            else:
                tally.count(left, right, vote)
            shown = {**self.stage.show(conversation, speech), self.stage.saved: conversation.to_dict()}
            return {**shown, **self._counted(tally, speech)}

        return handler

    @open_to_all
    def on_load(self, stored: Any, request: gr.Request) -> Updates:
        updates = self._counted(Tally.from_dict(stored), speech_for(request))
        return {**updates, self.tally: gr.skip()}

    @open_to_all
    def on_forget(self, request: gr.Request) -> Updates:
        return self._counted(Tally(), speech_for(request))

    def _counted(self, tally: Tally, speech: Speech) -> Updates:
        return {
            self.tally: tally.to_dict(),
            self.table: votes_html(tally, speech),
            self.forget: gr.Button(visible=bool(tally.pairs)),
        }
