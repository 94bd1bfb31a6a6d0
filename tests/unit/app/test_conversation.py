"""A conversation of two panes stays aligned whatever a person does to it."""

from __future__ import annotations

import json

import pytest

from app.chat.conversation import INTERRUPTED, Answer, Conversation
from app.chat.sources import BASE, Source
from app.text.languages import Speech
from app.views.chat_view import SHOWN_ROUNDS, menu, round_index, shown_messages

ZH = Speech("zh")


def spoken(count: int = 3) -> Conversation:
    conversation = Conversation()
    for number in range(count):
        entry = conversation.ask(f"q{number}")
        for pane in ("left", "right"):
            entry.answers[pane] = Answer(f"{pane}{number}", source=pane, finish_reason="stop")
    return conversation


def test_each_pane_remembers_its_own_answers() -> None:
    conversation = spoken(2)
    assert conversation.history("left", 2) == [("q0", "left0"), ("q1", "left1")]
    assert conversation.history("right", 1) == [("q0", "right0")]


def test_a_failed_answer_is_not_remembered() -> None:
    conversation = spoken(2)
    conversation.rounds[0].answers["left"] = Answer("half", error="out of memory")
    assert conversation.history("left", 2) == [("q1", "left1")]
    assert len(conversation.history("right", 2)) == 2


def test_undo_gives_the_question_back() -> None:
    conversation = spoken(2)
    assert conversation.undo() == "q1"
    assert len(conversation.rounds) == 1
    assert Conversation().undo() == ""


def test_an_edited_question_forgets_what_followed_in_both_panes() -> None:
    conversation = spoken(3)
    conversation.edit(1, "new")
    assert [entry.question for entry in conversation.rounds] == ["q0", "new"]
    assert conversation.rounds[1].answers["right"].text == ""


def test_retry_touches_one_pane() -> None:
    conversation = spoken(2)
    conversation.retry(1, ("right",))
    assert conversation.rounds[1].answers["right"].text == ""
    assert conversation.rounds[1].answers["left"].text == "left1"


def test_a_conversation_survives_the_browsers_store() -> None:
    conversation = spoken(2)
    again = Conversation.from_dict(json.loads(json.dumps(conversation.to_dict())))
    assert again.rounds == conversation.rounds


def test_of_a_very_long_conversation_the_newest_rounds_are_stored() -> None:
    conversation = spoken(3)
    assert [entry["question"] for entry in conversation.to_dict(character_limit=30)["rounds"]] == ["q1", "q2"]
    conversation.ask("长" * 10_000_000)
    assert conversation.to_dict()["rounds"] == []


@pytest.mark.parametrize("data", [None, 3, {}, {"rounds": 3}, {"rounds": [{"question": 1}]}, {"rounds": [{}]}])
def test_a_broken_store_gives_an_empty_conversation(data: object) -> None:
    assert Conversation.from_dict(data).rounds == []


@pytest.mark.parametrize("rounds", [1, 3, SHOWN_ROUNDS, SHOWN_ROUNDS + 7])
def test_a_message_finds_its_round(rounds: int) -> None:
    conversation = spoken(rounds)
    messages = shown_messages(conversation, "left", ZH)
    last_question = max(i for i, message in enumerate(messages) if message["role"] == "user")
    assert messages[last_question]["content"] == f"q{rounds - 1}"
    assert round_index(conversation, last_question) == rounds - 1


def test_hidden_rounds_are_said() -> None:
    messages = shown_messages(spoken(SHOWN_ROUNDS + 2), "left", ZH)
    assert "2" in messages[0]["content"]
    assert len(messages) == 1 + 2 * SHOWN_ROUNDS


def test_a_failure_is_shown_as_a_sentence() -> None:
    conversation = spoken(1)
    conversation.rounds[0].answers["left"] = Answer(error="显存不足")
    assert "显存不足" in shown_messages(conversation, "left", ZH)[-1]["content"]


def test_the_menu_starts_with_the_base() -> None:
    assert menu([Source(BASE)], ZH) == [(ZH("base_choice"), BASE)]


# What a reload or a restart cut off


def test_a_round_that_was_heard_in_part_is_taken_up_and_marked() -> None:
    conversation = spoken(2)
    conversation.ask("q2")
    stored = json.loads(json.dumps(conversation.to_dict()))
    conversation.rounds[-1].answers["left"].text = "hal"
    heard = json.loads(json.dumps(conversation.last_round()))
    again = Conversation.from_dict(stored)
    again.take_up(heard)
    last = again.rounds[-1].answers
    assert (last["left"].text, last["left"].finish_reason) == ("hal", INTERRUPTED)
    assert (last["right"].text, last["right"].finish_reason) == ("", INTERRUPTED)
    assert [message["content"] for message in shown_messages(again, "right", ZH)][-1] == "…"


def test_what_was_heard_of_another_round_is_left_alone() -> None:
    conversation = spoken(2)
    heard = spoken(1).last_round()
    conversation.take_up(heard)
    assert conversation == spoken(2)


@pytest.mark.parametrize(
    "heard", [None, 3, {}, {"answers": {}}, {"question": "q1", "answers": {"left": {"text": 5}}}, [], "x"], ids=str
)
def test_anything_else_in_the_browsers_store_is_ignored(heard: object) -> None:
    conversation = spoken(2)
    conversation.take_up(heard)
    assert conversation == spoken(2)
    assert Conversation.from_dict({"rounds": [heard]}).rounds == []
    Conversation().take_up(heard)
