"""Where two answers differ is marked word by word, in both of them, and no text is changed by it."""

from __future__ import annotations

import html
import re

import pytest

from app.chat.conversation import PANES, Answer, Conversation
from app.chat.judging.differences import differences
from app.tabs.comparing.looking import Looking
from app.text.languages import Speech
from app.views.chat_view import shown_messages
from app.views.rendering import question_markdown

PAIRS = [
    ("这件上衣采用牛仔布面料", "这件上衣采用蕾丝面料"),
    ("It keeps the base model.", "It trains the base model."),
    ("a\n\nb  c", "a\nb c"),
    ("same", "same"),
    ("", "something"),
    ("word " * 1500, "word " * 1400 + "another " * 100),
]


def between(left: str, right: str, finish_reason: str = "stop") -> Conversation:
    conversation = Conversation()
    answers = conversation.ask("q").answers
    for pane, text in zip(PANES, (left, right), strict=True):
        answers[pane] = Answer(text, source=pane, finish_reason=finish_reason)
    conversation.view.differences = True
    return conversation


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda text: text[:12])
def test_the_pieces_are_the_text_and_what_does_not_differ_is_in_both(left: str, right: str) -> None:
    found = differences(left, right)
    assert tuple("".join(piece for piece, _ in side) for side in found) == (left, right)
    kept = ["".join(piece for piece, differs in side if not differs) for side in found]
    assert kept[0] == kept[1]


def test_what_differs_is_a_word_and_not_a_letter() -> None:
    left, right = differences(*PAIRS[0])
    assert [piece for piece, differs in left if differs] == ["牛仔布"]
    assert [piece for piece, differs in right if differs] == ["蕾丝"]


def test_answers_are_shown_with_their_differences_marked_and_nothing_in_them_acts() -> None:
    left, right = "a **b** <img src=x>\n\n$$x$$", "a **c** <img src=x>\n\n$$x$$"
    conversation = between(left, right)
    for pane, text, word in (("left", left, "b"), ("right", right, "c")):
        content = shown_messages(conversation, pane, Speech())[-1]["content"]
        marked = content.partition("\n\n")[2]
        assert f"<mark>{word}</mark>" in marked and marked.count("<mark>") == 1
        plain = re.sub(r"</?(?:div|mark)[^>]*>", "", marked).replace("<br>", "\n")
        assert html.unescape(plain) == text and "\n\n" not in marked
        assert question_markdown("<img src=x>") in marked


@pytest.mark.parametrize("finish_reason", ["", "stop"])
def test_an_answer_that_is_still_given_is_shown_as_ever(finish_reason: str) -> None:
    conversation = between("*a*", "b", finish_reason)
    content = shown_messages(conversation, "left", Speech())[-1]["content"]
    assert ("<mark>" in content) is bool(finish_reason)


@pytest.mark.parametrize("kept", [None, 3, [], {}, {"differences": 1}, {"differences": "true"}])
def test_a_browsers_store_that_holds_something_else_marks_nothing(kept: object) -> None:
    assert not Looking.read(kept).differences
    assert Looking.read({"differences": True}).differences
