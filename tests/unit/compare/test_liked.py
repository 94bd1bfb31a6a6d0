"""A liked or edited answer becomes a row that training reads, with where it came from; a viewer writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.chat.conversation import PANES, Answer, Conversation
from app.chat.judging.liked import LikedRows, liked_rows, row_of, to_lines
from app.door.door import Visitor
from app.places import LIKED_FILE
from app.tabs.access import VISITOR
from app.tabs.comparing.liking import Liking
from app.tabs.comparing.stage import Stage
from training.data.columns import find_columns
from training.data.files import read_table
from training.settings.train import TrainingSettings


def spoken() -> Conversation:
    conversation = Conversation(begun=True)
    for question in ("q0", "q1"):
        entry = conversation.ask(question)
        for pane in PANES:
            entry.answers[pane] = Answer(
                f"{pane} {question} #1", f"chip {pane}", strengths=[0.5], seed=3, finish_reason="stop"
            )
    return conversation


@pytest.fixture
def liking(stage: Stage, tmp_path: Path) -> Liking:
    return Liking(stage, LikedRows(tmp_path / LIKED_FILE))


def pressed(place: int, liked: Any = True) -> Any:
    return SimpleNamespace(index=place, liked=liked)


def viewer() -> Any:
    scope = {VISITOR: Visitor("a", may_change=False)}
    return SimpleNamespace(cookies={}, headers={}, request=SimpleNamespace(scope=scope))


def rows(liking: Liking) -> list[dict[str, Any]]:
    return [json.loads(line) for line in liking.rows.file.read_text(encoding="utf-8").splitlines()]


def test_a_liked_answer_is_a_row_that_training_reads(liking: Liking, request_in: Any, said: list[str]) -> None:
    conversation = spoken()
    updates = liking.on_like("right")(conversation, pressed(3), request_in())
    assert "liked" in updates[liking.stage.panes["right"].chat][3]["content"].partition("</div>")[0]
    assert rows(liking) == [
        {"prompt": "q1", "response": "right q1 #1", "history": [["q0", "right q0 #1"]], "answered_by": "chip right"}
        | {"strengths": [0.5], "seed": 3, "edited": False}
    ]
    settings = TrainingSettings.from_dict({"train_file": str(liking.rows.file)})
    columns = find_columns(read_table(liking.rows.file), settings)
    assert (columns.prompt, columns.response, columns.history) == ("prompt", "response", "history")


def test_liking_twice_keeps_one_row_and_taking_it_back_none(liking: Liking, request_in: Any) -> None:
    conversation, press = spoken(), liking.on_like("left")
    for place in (1, 3, 1):
        press(conversation, pressed(place), request_in())
    assert [row["prompt"] for row in rows(liking)] == ["q1", "q0"]
    for place in (1, 3):
        press(conversation, pressed(place, ""), request_in())
    assert not liking.rows.file.exists() and liked_rows(conversation) == []


def test_an_edited_answer_is_what_is_learnt_and_remembered(liking: Liking, request_in: Any) -> None:
    conversation = spoken()
    liking.on_like("left")(conversation, pressed(1), request_in())
    liking.edit(conversation, "left", 1, "better # answer", request_in())
    assert [(row["response"], row["edited"]) for row in rows(liking)] == [("better # answer", True)]
    assert conversation.history("left", 1) == [("q0", "better # answer")]
    liking.edit(conversation, "left", 1, "  ", request_in())
    assert conversation.rounds[0].answers["left"].text == "better # answer"


def test_a_viewers_likes_stay_in_their_browser(liking: Liking, said: list[str]) -> None:
    conversation = spoken()
    updates = liking.on_like("left")(conversation, pressed(1), viewer())
    assert not liking.rows.file.parent.exists() and "Marked in this conversation" in said[-1]
    again = Conversation.from_dict(updates[liking.stage.saved])
    assert json.loads(to_lines(liked_rows(again)))["prompt"] == "q0"


def test_in_a_blind_round_the_answer_that_was_shown_is_liked(liking: Liking, request_in: Any) -> None:
    conversation = spoken()
    conversation.rounds[1].swapped = True
    liking.on_like("left")(conversation, pressed(3), request_in())
    assert rows(liking)[0]["answered_by"] == "chip right"


def test_only_answers_are_edited_as_answers(liking: Liking) -> None:
    conversation = spoken()
    assert [liking.is_answer(conversation, "left", place) for place in range(-1, 5)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_what_somebody_else_wrote_into_the_file_stays(liking: Liking) -> None:
    liking.rows.file.parent.mkdir(parents=True)
    liking.rows.file.write_text('not json\n[1]\n{"prompt": "mine"}\n', encoding="utf-8")
    liking.rows.add(row_of(spoken(), 0, "left"))
    liking.rows.remove(row_of(spoken(), 0, "left"))
    assert liking.rows.file.read_text(encoding="utf-8") == 'not json\n[1]\n{"prompt": "mine"}\n'
