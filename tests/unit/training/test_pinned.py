"""Pinned prompts: answered by base and prefix at every checkpoint, and nothing of the training changes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import prefix_of
from tiny_checkpoint import tiny_settings

from chatglm2.errors import RunError
from training.loop import pinned, questioner
from training.runs.events import FinishedEvent, MessageEvent, PinnedEvent, point_history
from training.runs.layout import PINS_FILE
from training.runs.pins import read_pins, write_pins
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import train

PROMPTS = ["你好", "类型#裙*颜色#红色"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("pinned"), max_steps=4, per_device_train_batch_size=4)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def answered(run: Run) -> list[PinnedEvent]:
    return point_history(run.events()[0], PinnedEvent)


def test_base_and_prefix_answer_at_every_checkpoint_and_the_training_is_the_same_to_the_bit(
    store: RunStore, settings: TrainingSettings
) -> None:
    plain, run = store.create(settings, "plain"), store.create(settings, "pinned")
    write_pins(run, PROMPTS)
    train(plain)
    train(run)
    events = answered(run)
    assert [event.step for event in events] == [0, 2, 4]
    assert all([item.prompt for item in event.answers] == PROMPTS for event in events)
    assert all(item.tuned is None for item in events[0].answers)
    assert all(item.tuned is not None for event in events[1:] for item in event.answers)
    assert {item.base for event in events for item in event.answers if item.prompt == PROMPTS[0]} == {
        events[0].answers[0].base
    }
    assert not answered(plain)
    for name, weight in prefix_of(plain, 4).items():
        assert torch.equal(weight, prefix_of(run, 4)[name])


def test_what_is_pinned_while_a_run_trains_is_answered_from_then_on(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(settings, "run")
    ask = pinned.PinnedWatch.on_save

    def pin_then_ask(self: pinned.PinnedWatch, args: object, state: object, *rest: object, **named: object) -> None:
        ask(self, args, state, *rest, **named)  # type: ignore[arg-type]
        write_pins(run, PROMPTS)

    monkeypatch.setattr(pinned.PinnedWatch, "on_save", pin_then_ask)
    train(run)
    (event,) = answered(run)
    assert event.step == 4 and all(item.base is not None and item.tuned is not None for item in event.answers)


def test_a_prompt_that_cannot_be_answered_costs_the_answers_and_not_the_training(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(settings, "run")
    write_pins(run, PROMPTS)

    def fail(*_: object) -> None:
        raise RunError("no room", "没有空间")

    monkeypatch.setattr(questioner, "answer_examples", fail)
    assert isinstance(train(run), FinishedEvent)
    assert not answered(run)
    told = [event for event in run.events()[0] if isinstance(event, MessageEvent) and "Pinned" in event.en]
    assert len(told) == 1 and "没有空间" in told[0].zh


@pytest.mark.parametrize("prompts", [[str(number) for number in range(6)], ["x" * 2001]], ids=["many", "long"])
def test_too_much_is_not_pinned(store: RunStore, settings: TrainingSettings, prompts: list[str]) -> None:
    with pytest.raises(RunError, match=r"at most|At most"):
        write_pins(store.create(replace(settings), "run"), prompts)


@pytest.mark.parametrize("content", ["", "[]", '{"prompts": 3}', '{"prompts": [1]}'])
def test_a_damaged_list_of_pins_is_none(store: RunStore, settings: TrainingSettings, content: str) -> None:
    run = store.create(settings, "run")
    (run.path / PINS_FILE).write_text(content, encoding="utf-8")
    assert read_pins(run) == []
