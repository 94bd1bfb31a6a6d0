"""A blind vote hides who answered until it is given, counts what was shown, and says how sure a win rate is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.chat.conversation import PANES, Answer, Conversation, View
from app.chat.judging import votes
from app.chat.judging.votes import Tally
from app.tabs.comparing.stage import Stage
from app.tabs.comparing.voting import Voting
from app.text.languages import Speech
from app.views.chat_view import facts_html, shown_messages
from app.views.comparing.votes import votes_html
from training.probes.intervals import wilson_interval

EN = Speech("en")


def asked(swapped: bool, whos: tuple[str, str] = ("base", "run / checkpoint-2 · ab")) -> Conversation:
    conversation = Conversation(view=View(blind=True), begun=True)
    entry = conversation.ask("q")
    entry.swapped = swapped
    for pane, who in zip(PANES, whos, strict=True):
        entry.answers[pane] = Answer(f"of {who}", source=f"chip of {who}", who=who, seed=1, finish_reason="stop")
    return conversation


def seen(conversation: Conversation) -> str:
    shown = [shown_messages(conversation, pane, EN)[-1]["content"] for pane in PANES]
    return "".join(shown) + "".join(facts_html(conversation, pane, EN) for pane in PANES)


@pytest.fixture
def voting(stage: Stage) -> Voting:
    voting = Voting(stage)
    voting.build_table()
    stage.parts = [voting]
    return voting


@pytest.mark.parametrize("swapped", [False, True])
def test_who_answered_is_hidden_until_the_vote_and_each_pane_keeps_its_answer(swapped: bool) -> None:
    conversation = asked(swapped)
    assert "chip of" not in seen(conversation) and "seed" not in seen(conversation)
    before = [shown_messages(conversation, pane, EN)[-1]["content"] for pane in PANES]
    assert before == (
        ["of run / checkpoint-2 · ab", "of base"] if swapped else ["of base", "of run / checkpoint-2 · ab"]
    )
    conversation.rounds[0].vote = "tie"
    after = [shown_messages(conversation, pane, EN)[-1]["content"] for pane in PANES]
    assert [text.endswith(old) for text, old in zip(after, before, strict=True)] == [True, True]
    assert "chip of base" in seen(conversation) and "seed 1" in seen(conversation)


def test_the_next_question_and_switching_off_show_who_it_was() -> None:
    conversation = asked(True)
    conversation.view = View()
    assert "chip of base" in seen(conversation)
    conversation.view = View(blind=True)
    conversation.ask("next")
    assert not conversation.hides(0) and conversation.hides(1)


def test_sides_are_shuffled_only_where_the_vote_is_blind() -> None:
    blind, open_to_see = Conversation(view=View(blind=True)), Conversation()
    swaps = {blind.ask("q").swapped for _ in range(64)}
    assert swaps == {True, False}
    assert not any(open_to_see.ask("q").swapped for _ in range(64))


def test_an_open_vote_is_still_open_after_a_reload() -> None:
    conversation = asked(True)
    again = Conversation.from_dict(json.loads(json.dumps(conversation.to_dict())))
    again.view = View(blind=True)
    assert again.hides(0) and again.rounds == conversation.rounds


@pytest.mark.parametrize(
    ("swapped", "vote", "winner"), [(False, "left", "base"), (True, "left", "run"), (True, "right", "base")]
)
def test_a_vote_is_for_what_the_pane_showed(
    voting: Voting, request_in: Any, swapped: bool, vote: Any, winner: str
) -> None:
    conversation = asked(swapped)
    assert voting.show(conversation, EN)[voting.row].visible
    updates = voting.on_vote(vote)(conversation, {}, request_in())
    won = {row.who.split()[0]: row.won for row in Tally.from_dict(updates[voting.tally]).standings()}
    assert won == {"base": int(winner == "base"), "run": int(winner == "run")}
    assert (
        not updates[voting.row].visible
        and "chip of base"
        in updates[voting.stage.panes["left"].chat][-1]["content"]
        + (updates[voting.stage.panes["right"].chat][-1]["content"])
    )
    twice = voting.on_vote(vote)(conversation, updates[voting.tally], request_in())
    assert list(twice) == [voting.tally] and twice[voting.tally] == {"__type__": "update"}


def test_no_vote_is_open_on_half_an_answer_or_a_failed_one(voting: Voting) -> None:
    for change in ({"finish_reason": ""}, {"error": "broke"}, {"text": ""}):
        conversation = asked(False)
        for name, value in change.items():
            setattr(conversation.rounds[0].answers["left"], name, value)
        assert not voting.show(conversation, EN)[voting.row].visible
    assert not voting.show(Conversation(), EN)[voting.row].visible


def test_a_vote_between_a_model_and_itself_is_not_counted(voting: Voting, request_in: Any, said: list[str]) -> None:
    updates = voting.on_vote("left")(asked(False, ("base", "base")), {}, request_in("zh"))
    assert updates[voting.tally]["pairs"] == [] and "不计入" in said[-1]


def test_a_rate_is_of_decided_votes_and_all_opponents() -> None:
    tally = Tally()
    for vote in ("left", "left", "tie", "right"):
        tally.count("b", "a", vote)
    tally.count("b", "c", "left")
    again = Tally.from_dict(json.loads(json.dumps(tally.to_dict())))
    best = again.standings()[0]
    assert (best.who, set(best.against), best.won, best.lost, best.ties, best.rate) == ("b", {"a", "c"}, 3, 1, 1, 0.75)
    only_ties = Tally()
    only_ties.count("a", "b", "tie")
    assert only_ties.standings()[0].rate is None and "—" in votes_html(only_ties, EN)


@pytest.mark.parametrize(
    ("won", "decided", "low", "high"),  # statsmodels.stats.proportion.proportion_confint(method="wilson")
    [
        (0, 10, 0.0, 0.2775),
        (7, 10, 0.3968, 0.8922),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_the_interval_is_wilsons(won: int, decided: int, low: float, high: float) -> None:
    assert wilson_interval(won, decided) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    "stored",
    [None, 3, {}, {"pairs": 3}, {"pairs": [{"first": 1}]}, {"pairs": [{"first": "a", "second": "b", "ties": -1}]}],
    ids=str,
)
def test_anything_else_in_a_browsers_store_is_an_empty_tally(stored: object) -> None:
    assert Tally.from_dict(stored).pairs == []


def test_a_browser_keeps_only_so_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "MOST_PAIRS", 2)
    tally = Tally()
    for who in ("a", "b", "a", "c"):
        tally.count("base", who, "left")
    assert [pair.first for pair in tally.pairs] == ["a", "base"] and tally.pairs[0].second_wins == 2


def test_names_are_shown_as_text() -> None:
    tally = Tally()
    tally.count("base", "<b>run", "right")
    shown = votes_html(tally, Speech("zh"))
    assert "&lt;b&gt;run" in shown and "原模型" in shown and "100%" in shown
