"""The list of a browser's conversations: the one on the page, then those put away."""

from __future__ import annotations

from markupsafe import Markup

from app.chat.conversation import Conversation
from app.chat.keeping.shelf import Shelf
from app.text.languages import Speech
from app.views.markup import render

CURRENT = ""  # the key of the conversation that is on the page


def conversations_html(current: Conversation, shelf: Shelf, speech: Speech) -> Markup:
    """A list with a button to take each up and one to delete it."""
    items = [_item(CURRENT, current, speech)]
    items += [_item(entry.key, entry, speech) for entry in shelf.conversations if entry.key != current.key]
    return render("conversations", items=items, current=CURRENT, word=speech)


def title_of(conversation: Conversation, speech: Speech) -> str:
    return conversation.title or speech("new_conversation")


def _item(key: str, conversation: Conversation, speech: Speech) -> dict[str, object]:
    title, count = title_of(conversation, speech), len(conversation.rounds)
    return {
        "key": key,
        "title": title,
        "rounds": speech("rounds", count=count),
        "deletes": speech("delete_conversation", name=title) if count else "",
    }
