"""What is forgotten is measured against the base's own answers, and measuring leaves the training as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import half_done_copy, prefix_of
from tiny_checkpoint import tiny_settings

from chatglm2.errors import DataError
from training.data.files import read_table
from training.loop import questioner
from training.loop.retention import ANSWERS_FILE, MAXIMUM_PROMPTS, compare, read_prompts
from training.runs.events import FinishedEvent, MessageEvent, RetentionEvent, point_history
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    directory = tmp_path_factory.mktemp("retention")
    questions = directory / "questions.jsonl"
    questions.write_text('{"question": "你好"}\n{"question": "12+34=?"}\n', encoding="utf-8")
    return tiny_settings(
        directory,
        max_steps=4,
        per_device_train_batch_size=4,
        retention_check="on",
        retention_file=str(questions),
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def measured(run: Run) -> list[RetentionEvent]:
    return point_history(run.events()[0], RetentionEvent)


def test_equal_answers_are_kept_whole_even_where_they_are_empty() -> None:
    event = compare(3, ["a", "b"], ["", "好"], ["", "好"])
    assert (event.kept, event.unchanged, event.examples) == (100, 2, [])


def test_the_answers_that_changed_most_are_shown_first() -> None:
    before = ["你好！很高兴见到你。", "46", "不客气", "巴黎", "棉透气"]
    after = ["你好！很高兴见到她。", "46", "一条裙子", "上衣", "棉透气"]
    event = compare(1, ["p0", "p1", "p2", "p3", "p4"], before, after)
    assert event.unchanged == 2
    assert [example["prompt"] for example in event.examples] == ["p2", "p3", "p0"]
    assert 40 < event.kept < 60
    assert event.examples[0] == {"prompt": "p2", "before": "不客气", "after": "一条裙子"}


def test_the_base_answers_at_step_0_and_the_prefix_at_every_checkpoint(
    store: RunStore, settings: TrainingSettings
) -> None:
    run = store.create(settings, "run")
    train(run)
    events = measured(run)
    assert [event.step for event in events] == [0, 2, 4]
    assert events[0].kept == 100
    assert all(0 <= event.kept < 100 and event.prompts == 2 for event in events[1:])
    answers = json.loads((run.path / ANSWERS_FILE).read_text(encoding="utf-8"))
    assert answers["prompts"] == ["你好", "12+34=?"]
    changed = events[1].examples[0]
    assert changed["before"] == answers["answers"][answers["prompts"].index(changed["prompt"])]


def test_where_there_is_validation_it_is_measured_with_it(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(settings, validation_file=settings.train_file, eval_steps=3, retention_check="auto")
    run = store.create(asked, "run")
    train(run)
    assert [event.step for event in measured(run)] == [0, 3, 4]


def test_without_validation_it_is_off_unless_asked_for(settings: TrainingSettings) -> None:
    assert not replace(settings, retention_check="auto").checks_retention
    assert settings.checks_retention
    validating = replace(settings, validation_file="x.json", eval_steps=1, retention_check="auto")
    assert validating.checks_retention
    assert not replace(validating, retention_check="off").checks_retention
    assert not replace(validating, pre_seq_len=None, fsdp="full_shard").checks_retention


@pytest.mark.parametrize("recompute", ["on", "off"])
def test_a_run_that_checks_trains_the_same_prefix_bit_for_bit(
    store: RunStore, settings: TrainingSettings, recompute: str
) -> None:
    asked = replace(settings, gradient_checkpointing=recompute)
    asking, silent = store.create(asked, "asking"), store.create(replace(asked, retention_check="off"), "silent")
    train(asking)
    train(silent)
    assert len(measured(asking)) == 3 and not measured(silent)
    for step in (2, 4):
        for name, tensor in prefix_of(silent, step).items():
            assert tensor.equal(prefix_of(asking, step)[name])


def test_a_resumed_run_compares_with_the_same_answers(store: RunStore, settings: TrainingSettings) -> None:
    straight = store.create(settings, "straight")
    train(straight)
    resumed = half_done_copy(store, straight, kept_step=2)
    (resumed.path / ANSWERS_FILE).unlink()  # a prefix can always be taken off again
    train(resumed)
    assert [(e.step, e.kept) for e in measured(resumed)] == [(e.step, e.kept) for e in measured(straight)]


def test_all_weights_are_compared_with_what_they_answered_before(store: RunStore, settings: TrainingSettings) -> None:
    full = replace(settings, pre_seq_len=None, learning_rate=1e-2)
    run = store.create(full, "full")
    train(run)
    assert [event.step for event in measured(run)] == [0, 2, 4]
    resumed = half_done_copy(store, run, kept_step=2)
    (resumed.path / ANSWERS_FILE).unlink()
    train(resumed)
    messages = [event.en for event in resumed.events()[0] if isinstance(event, MessageEvent)]
    assert any("what is forgotten is not checked" in message for message in messages)


def test_a_check_that_fails_ends_itself_and_not_the_training(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    run = store.create(settings, "run")
    answer_examples = questioner.answer_examples
    monkeypatch.setattr(
        questioner, "answer_examples", lambda *args: answer_examples(*args) if args[-1] == (None,) else fail()
    )
    assert isinstance(train(run), FinishedEvent)
    messages = [event.en for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert [message for message in messages if "out of memory" in message] == [
        "What is forgotten is not checked any more, the training goes on: out of memory"
    ]


def test_our_own_questions_are_a_dozen_in_two_languages() -> None:
    prompts = read_prompts(TrainingSettings())
    assert len(prompts) == len(set(prompts)) == 12
    assert any(prompt.isascii() for prompt in prompts) and not all(prompt.isascii() for prompt in prompts)


def test_a_file_without_questions_is_refused(settings: TrainingSettings, tmp_path: Path) -> None:
    for content, sentence in (('{"answer": "a"}', "no column of questions"), ('{"prompt": ""}', "is empty")):
        file = tmp_path / "questions.json"
        file.write_text(content)
        assert read_table(file).rows
        with pytest.raises(DataError, match=sentence):
            read_prompts(replace(settings, retention_file=str(file)))


def test_a_long_file_of_questions_is_asked_from_its_beginning_only(settings: TrainingSettings, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(f'{{"question": "{number}?"}}\n' for number in range(MAXIMUM_PROMPTS + 5)))
    prompts = read_prompts(replace(settings, retention_file=str(file)))
    assert prompts == [f"{number}?" for number in range(MAXIMUM_PROMPTS)]


def test_broken_questions_are_skipped_and_told_if_that_is_asked_for(
    store: RunStore, settings: TrainingSettings, tmp_path: Path
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "a?"}\n{"prompt": {"b": 1}}\n{"prompt": "c?"}\n')
    asked = replace(settings, retention_file=str(file))
    with pytest.raises(DataError, match="--skip_bad_rows"):
        read_prompts(asked)
    run = store.create(settings, "run")
    assert read_prompts(replace(asked, skip_bad_rows=True), run) == ["a?", "c?"]
    (told,) = [event.en for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert told.startswith("questions.jsonl: 1 broken row is skipped (line 2)")
    file.write_text('{"prompt": {}}\n{"prompt": []}\n')
    with pytest.raises(DataError, match="none of its rows can be used"):
        read_prompts(replace(asked, skip_bad_rows=True))
