"""Several conversations: put away, taken up, saved as files and read back to the letter; and what is none of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.chat.conversation import NAME_CHARACTERS, PANES, Answer, Conversation
from app.chat.keeping import shelf as shelves
from app.chat.keeping.files import ConversationFileError, read_conversation, to_json, to_markdown
from app.chat.keeping.shelf import Shelf, ShelfError

HARD_TEXTS = [
    "类型#裙*版型#宽松*风格#淑女",
    "```python\nprint('<b>')\n```",
    '<!-- chatglm2: {"end": true} -->\nbehind it',
    '\\<!-- chatglm2: {"pane": "left"} -->',
    "````\nfence",
    "# a heading\n\n## 2\n\n### left",
    "ends with a line\n",
    " leading and trailing ",
    "a --> b -- c > d",
    "",
]


def spoken(*texts: str, name: str = "") -> Conversation:
    conversation = Conversation(name=name)
    for text in texts:
        entry = conversation.ask(text or "q")
        for pane in PANES:
            entry.answers[pane] = Answer(
                text, source=f"{pane} --> x", strengths=[0.35], seed=7, tokens=3, finish_reason="stop"
            )
    return conversation


def facts(answer: Answer) -> str:
    return f"seed {answer.seed}"


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_a_conversation_comes_back_from_either_file_to_the_letter(text: str) -> None:
    conversation = spoken(text, "second", name="Ads -- a > b")
    for content in (to_json(conversation), to_markdown(conversation, facts)):
        again = read_conversation(content)
        assert again.rounds == conversation.rounds and again.name == conversation.name


def test_markdown_is_a_page_to_read() -> None:
    lines = to_markdown(spoken("你好", name="问候"), facts).split("\n")
    shown = [line for line in lines if line and not line.startswith("<!--")]
    answer = ["你好", "*seed 7*"]
    assert shown == ["# 问候", "## 1", "```", "你好", "```", "### left --> x", *answer, "### right --> x", *answer]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_that_another_systems_editor_saved_is_read(mark: str) -> None:
    conversation = spoken("one\ntwo")
    for content in (to_json(conversation), to_markdown(conversation, facts)):
        assert read_conversation(mark + content.replace("\n", "\r\n")).rounds == conversation.rounds


VALID = json.loads(to_json(spoken("q")))


def with_answer(**changes: Any) -> str:
    changed = json.loads(json.dumps(VALID))
    changed["rounds"][0]["answers"]["left"] |= changes
    return json.dumps(changed)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "null",
        "# just a page",
        "[" * 100_000,
        '{"format": ' + "[" * 100_000,
        json.dumps({**VALID, "format": "another"}),
        json.dumps({**VALID, "rounds": []}),
        with_answer(tokens=10**400),
        with_answer(seconds=-1),
        with_answer(seed=-1),
        with_answer(text="\ud800"),
        with_answer(strengths=[1e308]),
        '<!-- chatglm2: {"pane": ["left"]} -->\nx\n<!-- chatglm2: {"end": true} -->',
        '<!-- chatglm2: {"pane": "left"} -->\nx\n<!-- chatglm2: {"end": true} -->',
        '<!-- chatglm2: {"question": ""} -->\nx\n<!-- chatglm2: {"end": true} -->',
        "<!-- chatglm2: [] -->",
        "<!-- chatglm2: {'x -->",
    ],
    ids=lambda content: content[:40],
)
def test_a_file_that_holds_no_conversation_is_refused_in_a_sentence(content: str) -> None:
    with pytest.raises(ConversationFileError, match="no conversation"):
        read_conversation(content)


def test_a_file_that_no_browser_could_keep_is_refused() -> None:
    with pytest.raises(ConversationFileError, match="too large"):
        read_conversation(to_json(spoken("长" * 400_000)))


def test_what_is_put_away_is_there_in_order_and_leaves_when_it_is_taken() -> None:
    shelf = Shelf()
    for name in ("a", "b", "c"):
        shelf.put(spoken("q", name=name))
    shelf.put(Conversation())  # nothing was said in it
    again = Shelf.from_dict(json.loads(json.dumps(shelf.to_dict())))
    assert [entry.title for entry in again.conversations] == ["c", "b", "a"]
    taken = again.take(again.conversations[1].key)
    assert taken.rounds == spoken("q").rounds and [entry.name for entry in again.conversations] == ["c", "a"]
    again.put(taken)
    assert [entry.name for entry in again.conversations] == ["b", "c", "a"]
    with pytest.raises(ShelfError, match="another tab"):
        again.take("gone")


@pytest.mark.parametrize(("limit", "value"), [("MOST_CONVERSATIONS", 2), ("MOST_BYTES", 3000)])
def test_a_full_shelf_refuses_and_loses_nothing(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, limit, value)
    shelf = Shelf()
    shelf.put(spoken("q", name="a"))
    shelf.put(spoken("q", name="b"))
    with pytest.raises(ShelfError, match="no more room"):
        shelf.put(spoken("长" * 1000, name="c"))
    assert [entry.name for entry in shelf.conversations] == ["b", "a"]


GOOD = {"key": "k", "rounds": spoken("q").to_dict()["rounds"]}


@pytest.mark.parametrize(
    "stored",
    [
        *(None, 3, [], "x", {}, {"conversations": 3}, {"conversations": [None, 3, {}, "x"]}),
        {"conversations": [{**GOOD, "key": None}, {**GOOD, "key": "x" * 300}, {**GOOD, "rounds": [{}]}]},
    ],
    ids=str,
)
def test_a_broken_shelf_is_as_good_as_an_empty_one(stored: object) -> None:
    assert Shelf.from_dict(stored).conversations == []


def test_what_is_broken_on_a_shelf_takes_nothing_else_along() -> None:
    shelf = Shelf.from_dict({"conversations": [3, GOOD, {**GOOD, "name": "\ud800", "key": "l"}, GOOD]})
    assert [(entry.key, entry.title) for entry in shelf.conversations] == [("k", "q"), ("l", "q")]


def test_a_name_stays_on_one_short_line_and_falls_back_to_the_first_question() -> None:
    conversation = spoken("first\nquestion")
    conversation.rename(" a\n b " + "c" * 100)
    assert conversation.title == ("a b " + "c" * 100)[:NAME_CHARACTERS]
    conversation.rename("  ")
    assert conversation.title == "first question"
