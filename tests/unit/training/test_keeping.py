"""What validates best is saved, marked, named and kept, also by a run that was resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import half_done_copy, prefix_of
from tiny_checkpoint import tiny_settings
from transformers import TrainerControl, TrainerState, TrainingArguments

from chatglm2.errors import RunError
from training.loop.keeping import CheckpointKeeper, Validation, best_of, validations
from training.loop.trainer import RunTrainer
from training.runs.events import EvaluationEvent, FinishedEvent, point_history, step_history
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    made = tiny_settings(tmp_path_factory.mktemp("keeping"), max_steps=6, per_device_train_batch_size=4)
    return replace(made, validation_file=made.train_file, eval_steps=1, max_eval_samples=2, retention_check="off")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


@pytest.fixture
def measure_as(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let validations measure losses that the test chooses, by step."""

    def choose(losses: dict[int, float]) -> None:
        evaluation_loop = RunTrainer.evaluation_loop

        def chosen(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
            output = evaluation_loop(self, *args, **kwargs)
            output.metrics["eval_loss"] = losses[self.state.global_step]
            return output

        monkeypatch.setattr(RunTrainer, "evaluation_loop", chosen)

    return choose


def steps_on_disk(run: Run) -> list[int]:
    return [info.step for info in run.checkpoints()]


def best_on_disk(run: Run) -> list[int]:
    return [info.step for info in run.checkpoints() if info.is_best]


def test_the_best_is_the_lowest_loss_or_the_highest_score_and_of_equals_the_first() -> None:
    measured = [Validation(1, 2.0), Validation(2, 1.0), Validation(3, float("nan")), Validation(4, 1.0)]
    assert best_of(measured, "loss") == measured[1]
    assert best_of(measured, "rouge-l") == measured[0]
    assert best_of([], "loss") is None


def test_only_validations_that_measured_the_metric_count() -> None:
    history = [{"loss": 3.0, "step": 1}, {"eval_loss": 2.0, "step": 1}, {"eval_rouge-l": 9.0, "step": 2}]
    assert validations(history, "loss") == [Validation(1, 2.0)]


def test_the_best_checkpoint_is_saved_kept_marked_and_named(
    store: RunStore, settings: TrainingSettings, measure_as: Any
) -> None:
    measure_as({1: 3.0, 2: 2.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0})
    run = store.create(replace(settings, load_best_model_at_end=True, save_total_limit=1), "run")
    ended = train(run)
    assert steps_on_disk(run) == [3, 6]  # 3 is between two save_steps
    assert best_on_disk(run) == [3]
    assert run.state().best_step == 3
    assert run.final_checkpoint().step == 3
    assert "checkpoint-3 is the best: loss 1." in ended.en
    assert "最佳检查点是 checkpoint-3：损失 1。" in ended.zh


def test_without_being_asked_to_keep_the_best_the_last_is_final(
    store: RunStore, settings: TrainingSettings, measure_as: Any
) -> None:
    measure_as({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0, 6: 6.0})
    run = store.create(settings, "run")
    train(run)
    assert steps_on_disk(run) == [2, 4, 6]
    assert best_on_disk(run) == [2]
    assert run.final_checkpoint().step == 6


def test_training_stops_when_nothing_better_comes(store: RunStore, settings: TrainingSettings, measure_as: Any) -> None:
    measure_as({1: 3.0, 2: 1.0, 3: 2.0, 4: 1.0, 5: 0.5, 6: 0.5})
    run = store.create(replace(settings, early_stopping_patience=2, load_best_model_at_end=True), "run")
    ended = train(run)
    assert isinstance(ended, FinishedEvent)
    assert ended.step == 4
    assert ended.en.startswith("Stopped early at step 4 of 6: nothing better in 2 validations. checkpoint-2 is the")
    assert steps_on_disk(run) == [1, 2, 4]


def test_a_resumed_run_knows_the_best_and_how_long_nothing_better_came(
    store: RunStore, settings: TrainingSettings, measure_as: Any
) -> None:
    measure_as({1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: 1.2, 6: 0.5})
    patient = replace(settings, early_stopping_patience=3, load_best_model_at_end=True)
    straight = store.create(patient, "straight")
    assert train(straight).step == 5
    resumed = half_done_copy(store, straight, kept_step=4)
    assert train(resumed).step == 5
    assert best_on_disk(resumed) == [2]
    for name, tensor in prefix_of(straight, 5).items():
        assert tensor.equal(prefix_of(resumed, 5)[name])


def test_a_save_of_the_best_shifts_no_point_of_a_resumed_curve(
    store: RunStore, settings: TrainingSettings, measure_as: Any
) -> None:
    measure_as({1: 3.0, 2: 2.0, 3: 4.0, 4: 4.0, 5: 4.0, 6: 4.0})  # the best is between two points
    asked = replace(settings, load_best_model_at_end=True, logging_steps=3, save_steps=50, eval_steps=2)
    straight = store.create(asked, "straight")
    train(straight)
    resumed = half_done_copy(store, straight, kept_step=2)
    train(resumed)
    first, second = (
        [(event.step, event.loss) for event in step_history(run.events()[0])] for run in (straight, resumed)
    )
    assert first == second


def test_a_run_that_goes_on_from_before_the_best_forgets_it(
    store: RunStore, settings: TrainingSettings, measure_as: Any
) -> None:
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 1.0, 5: 2.0, 6: 2.0}
    measure_as(losses)
    first = store.create(replace(settings, load_best_model_at_end=True), "first")
    train(first)
    assert best_on_disk(first) == [4]
    losses |= {4: 2.5}
    again = half_done_copy(store, first, kept_step=2)
    train(again)
    assert best_on_disk(again) == [2]


def test_a_deleted_best_checkpoint_leaves_the_best_of_those_that_are_there(
    store: RunStore, settings: TrainingSettings
) -> None:
    run = store.create(settings, "run")
    for step in (2, 4):
        run.checkpoint_path(step).mkdir()
        (run.checkpoint_path(step) / "prefix.safetensors").touch()
    keeper = CheckpointKeeper(run, settings)
    state = TrainerState(log_history=[{"eval_loss": loss, "step": step} for step, loss in ((2, 1.0), (4, 2.0))])
    assert keeper.best(state) == Validation(2, 1.0)
    run.delete_checkpoint(2)
    assert keeper.best(state) == Validation(4, 2.0)
    keeper.on_save(TrainingArguments(output_dir=str(run.staging), use_cpu=True), state, TrainerControl())
    assert best_on_disk(run) == [4]


def test_answers_are_scored_during_training_and_may_decide(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(
        settings,
        max_steps=2,
        eval_generate_samples=2,
        load_best_model_at_end=True,
        metric_for_best_model="bleu-4",
        max_target_length=12,
    )
    run = store.create(asked, "run")
    ended = train(run)
    measured = point_history(run.events()[0], EvaluationEvent)
    assert [set(event.metrics) for event in measured] == [{"loss", "rouge-1", "rouge-2", "rouge-l", "bleu-4"}] * 2
    assert "is the best: bleu-4" in ended.en
    history = json.loads((run.checkpoint_path(2) / "trainer_state.json").read_text())["log_history"]
    assert len(validations(history, "bleu-4")) == 2


def test_validating_changes_no_number_of_the_training(store: RunStore, settings: TrainingSettings) -> None:
    silent = store.create(replace(settings, eval_steps=None, max_steps=4), "silent")
    asking = store.create(
        replace(settings, max_steps=4, eval_generate_samples=2, max_target_length=12, retention_check="on"), "asking"
    )
    silent_settings = replace(silent.settings(), max_target_length=12)
    silent.update(settings=silent_settings)
    train(silent)
    train(asking)
    for step in (2, 4):
        for name, tensor in prefix_of(silent, step).items():
            assert tensor.equal(prefix_of(asking, step)[name])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"load_best_model_at_end": True}, "--load_best_model_at_end needs --eval_steps"),
        ({"early_stopping_patience": 3}, "--early_stopping_patience needs --eval_steps"),
        ({"eval_generate_samples": 3}, "--eval_generate_samples needs --eval_steps"),
        (
            {"metric_for_best_model": "rouge-l", "eval_steps": 1, "validation_file": "x.json"},
            "add --eval_generate_samples 50",
        ),
        ({"metric_for_best_model": "rouge"}, "one of loss, rouge-1, rouge-2, rouge-l, bleu-4"),
        ({"mix_ratio": 1.0}, "a number from 0 to 0.95"),
        (
            {"pre_seq_len": None, "fsdp": "full_shard", "retention_check": "on"},
            "--retention_check needs a process that has the whole model",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RunError) as refusal:
        TrainingSettings.from_dict(values)
    assert sentence in refusal.value.en
