"""Several answers of one model: each from its own seed, all in the round that they answer, stopped like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.chat.conversation import INTERRUPTED, MOST_SAMPLES, Answer, Conversation
from app.chat.duet import Voice, sample
from app.text.languages import Speech
from app.views.comparing.samples import samples_html
from chatglm2.errors import PromptError
from chatglm2.sampling import SamplingParams


class Reply:
    token_count, seconds, dropped_rounds, finish_reason = 2, 0.1, 0, "stop"

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[str]:
        yield self.text

    def cancel(self) -> None: ...


class Session:
    """Answers with the seed and what it was told to remember."""

    def stream(self, question: str, *, history: list[tuple[str, str]], seed: int, **_: object) -> Reply:
        if seed == 13:
            raise PromptError("Too long.", "太长了。")
        return Reply(f"{question} {seed} {history}")


def sampled(seeds: tuple[int, ...]) -> Conversation:
    conversation = Conversation()
    conversation.ask("before").answers["right"] = Answer("said", finish_reason="stop")
    conversation.ask("q")
    voices = [Voice("chip", None, SamplingParams(), seed, who="base") for seed in seeds]
    session: Any = Session()
    for _ in sample(session, conversation, 1, "right", voices, "zh"):
        pass
    return conversation


def test_each_answers_from_its_seed_with_what_its_pane_remembers_and_the_panes_stay() -> None:
    conversation = sampled((4, 5, 6))
    answers = conversation.rounds[1].samples
    assert [answer.text for answer in answers] == [f"q {seed} [('before', 'said')]" for seed in (4, 5, 6)]
    assert [(answer.seed, answer.who, answer.source) for answer in answers] == [(s, "base", "chip") for s in (4, 5, 6)]
    assert conversation.rounds[1].answers["right"] == Answer() and not conversation.streaming


def test_one_that_fails_says_so_beside_the_others() -> None:
    shown = samples_html(sampled((4, 13)).rounds[1].samples, Speech("zh"))
    assert "太长了。" in shown and "q 4" in shown and "2 个回答" in shown
    assert samples_html([], Speech()) == ""


def test_they_are_there_after_a_reload_and_half_ones_say_so() -> None:
    conversation = sampled((4, 5))
    kept = conversation.to_dict()
    conversation.rounds[1].samples[0].finish_reason = ""
    again = Conversation.from_dict(kept)
    again.take_up(conversation.last_round())
    assert [answer.finish_reason for answer in again.rounds[1].samples] == [INTERRUPTED, "stop"]


@pytest.mark.parametrize("count", [MOST_SAMPLES, MOST_SAMPLES + 1])
def test_a_browsers_store_brings_no_more_than_there_may_be(count: int) -> None:
    stored = sampled(tuple(range(20, 20 + count))).to_dict()
    assert bool(Conversation.from_dict(stored).rounds) is (count <= MOST_SAMPLES)
