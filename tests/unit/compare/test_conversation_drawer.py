"""The drawer of conversations, its handlers without a browser: whatever is pressed, nothing that was said is lost."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app.chat.conversation import Conversation
from app.chat.keeping.files import to_json
from app.chat.keeping.shelf import Shelf
from app.tabs.comparing.conversations import CURRENT, Conversations
from app.tabs.comparing.stage import Stage


@pytest.fixture
def drawer(stage: Stage) -> Conversations:
    return Conversations(stage)


def spoken(question: str) -> Conversation:
    conversation = Conversation(begun=True)
    for answer in conversation.ask(question).answers.values():
        answer.text, answer.finish_reason = f"to {question}", "stop"
    return conversation


def pressed(action: str, key: str) -> Any:
    return SimpleNamespace(action=action, key=key)


def stored(*questions: str) -> Any:
    shelf = Shelf()
    for question in questions:
        shelf.put(spoken(question))
    return json.loads(json.dumps(shelf.to_dict()))


def titles(drawer: Conversations, updates: dict[Any, Any]) -> list[str]:
    return [entry.title for entry in Shelf.from_dict(updates[drawer.shelf]).conversations]


def test_a_new_conversation_puts_the_old_one_away(drawer: Conversations, request_in: Any) -> None:
    updates = drawer.on_new(spoken("b"), stored("a"), request_in())
    assert updates[drawer.stage.conversation].rounds == [] and updates[drawer.stage.saved]["rounds"] == []
    assert titles(drawer, updates) == ["b", "a"]
    assert "New conversation" in updates[drawer.list] and updates[drawer.name] == ""


def test_one_that_is_taken_up_changes_places_with_the_one_on_the_page(drawer: Conversations, request_in: Any) -> None:
    shelf = stored("a", "b")
    key = shelf["conversations"][1]["key"]
    updates = drawer.on_action(spoken("c"), shelf, pressed("open", key), request_in("zh"))
    assert updates[drawer.stage.conversation].rounds == spoken("a").rounds
    assert updates[drawer.stage.panes["left"].chat][-1]["content"] == "to a"
    assert titles(drawer, updates) == ["c", "b"] and "1 轮" in updates[drawer.list]


@pytest.mark.parametrize("what", ["new", "open", "read", "delete"])
def test_nothing_changes_places_while_an_answer_is_given(
    drawer: Conversations, request_in: Any, said: list[str], what: str
) -> None:
    conversation, shelf = spoken("b"), stored("a")
    conversation.streaming = True
    updates = {
        "new": lambda: drawer.on_new(conversation, shelf, request_in()),
        "open": lambda: drawer.on_action(
            conversation, shelf, pressed("open", shelf["conversations"][0]["key"]), request_in()
        ),
        "read": lambda: drawer.on_read(to_json(spoken("c")), conversation, shelf, request_in()),
        "delete": lambda: drawer.on_delete(CURRENT, conversation, shelf, request_in()),
    }[what]()
    assert drawer.stage.conversation not in updates and drawer.shelf not in updates
    assert "Still answering" in said[-1]


def test_nothing_is_put_away_before_the_page_knows_what_the_browser_kept(
    drawer: Conversations, request_in: Any
) -> None:
    assert drawer.shelf not in drawer.on_new(Conversation(), stored("a"), request_in())


def test_a_deleted_one_is_asked_about_and_the_others_stay(drawer: Conversations, request_in: Any) -> None:
    shelf = stored("a", "b")
    key = shelf["conversations"][0]["key"]
    asked = drawer.on_action(spoken("c"), shelf, pressed("delete", key), request_in())
    assert asked[drawer.doomed] == key and "Delete b for good?" in asked[drawer.question]
    updates = drawer.on_delete(key, spoken("c"), shelf, request_in())
    assert titles(drawer, updates) == ["a"] and drawer.stage.conversation not in updates
    emptied = drawer.on_delete(CURRENT, spoken("c"), shelf, request_in())
    assert emptied[drawer.stage.conversation].rounds == [] and titles(drawer, emptied) == ["b", "a"]


def test_a_file_is_read_into_its_place_and_a_wrong_one_changes_nothing(
    drawer: Conversations, request_in: Any, said: list[str]
) -> None:
    updates = drawer.on_read(to_json(spoken("from afar")), spoken("a"), {}, request_in())
    assert updates[drawer.stage.conversation].rounds[0].question == "from afar" and titles(drawer, updates) == ["a"]
    for content in (None, "nothing"):
        assert drawer.shelf not in drawer.on_read(content, spoken("a"), {}, request_in())
    assert len(said) == 1 and "no conversation in this file" in said[0]


def test_a_name_is_kept_and_listed(drawer: Conversations, request_in: Any) -> None:
    conversation = spoken("a")
    updates = drawer.on_rename("Ads <1>", conversation, {}, request_in())
    assert Conversation.from_dict(updates[drawer.stage.saved]).title == "Ads <1>"
    assert "Ads &lt;1&gt;" in updates[drawer.list]


@pytest.mark.parametrize("kind", ["json", "md"])
def test_what_is_saved_can_be_read(drawer: Conversations, request_in: Any, said: list[str], kind: str) -> None:
    file = drawer.on_save(kind)(spoken("a"), request_in())
    assert file["name"].endswith(f".{kind}")
    updates = drawer.on_read(file["page"], Conversation(begun=True), {}, request_in())
    assert updates[drawer.stage.conversation].rounds == spoken("a").rounds
    assert drawer.on_save(kind)(Conversation(), request_in()) is None and "no conversation to export" in said[-1]
