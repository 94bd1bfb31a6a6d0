"""P-Tuning trains the prefix and nothing else, resumes bit for bit, and stops when it breaks down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import half_done_copy, prefix_of, write_general_examples
from tiny_checkpoint import tiny_settings, write_examples

from chatglm2 import load_model, load_prefix, load_tokenizer
from chatglm2.errors import DataError, PrefixError, RunError
from training.data.columns import find_columns
from training.data.encoding import read_examples
from training.data.files import read_table
from training.evaluation.scoring import mean_loss
from training.loop import trainer as trainer_module
from training.loop.run_data import load_data
from training.plan.step_plan import StepPlan
from training.runs.events import (
    EvaluationEvent,
    FinishedEvent,
    MessageEvent,
    StartedEvent,
    StepEvent,
    StoppedEvent,
    step_history,
)
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings
from training.worker import alone as worker
from training.worker.alone import conclude, train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("training"), max_steps=4, per_device_train_batch_size=4)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def curve(run: Run) -> list[tuple[int, float, float, float]]:
    return [
        (event.step, event.loss, event.learning_rate, event.gradient_norm) for event in step_history(run.events()[0])
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prefix_projection": True},
        {"gradient_accumulation_steps": 2, "logging_steps": 3},
        {"max_steps": 10, "save_steps": 6},  # 6 steps an epoch: resumed at an epoch's end
        {"max_steps": 10, "save_steps": 8},  # resumed inside the second epoch
        {"max_steps": 12, "save_steps": 10, "mix_file": "general.json"},  # 9 steps an epoch, then others are dealt
        {"max_steps": 10, "save_steps": 8, "group_by_length": False},
    ],
    ids=["plain", "projection", "accumulation", "epoch end", "second epoch", "mixed", "the original's order"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    store: RunStore, settings: TrainingSettings, tmp_path: Path, changes: dict[str, object]
) -> None:
    if "mix_file" in changes:
        changes = changes | {"mix_file": str(write_general_examples(tmp_path / "general.json"))}
    asked = TrainingSettings.from_dict({**settings.to_dict(), **changes})
    straight = store.create(asked, "straight")
    train(straight)
    resumed = half_done_copy(store, straight, kept_step=asked.save_steps)
    train(resumed)
    for name, tensor in prefix_of(straight, asked.max_steps).items():
        assert torch.equal(tensor, prefix_of(resumed, asked.max_steps)[name]), name
    assert curve(resumed) == curve(straight)
    started = [event for event in resumed.events()[0] if isinstance(event, StartedEvent)]
    assert [event.step for event in started] == [0, asked.save_steps]


def test_a_run_ends_with_the_originals_results_beside_those_of_an_evaluation(
    store: RunStore, settings: TrainingSettings
) -> None:
    run = store.create(settings, "run")
    (run.path / "all_results.json").write_text('{"predict_rouge-1": 12.5}')
    train(run)
    found = json.loads((run.path / "train_results.json").read_text(encoding="utf-8"))
    assert {"epoch", "train_loss", "train_runtime", "train_samples", "train_samples_per_second"} <= found.keys()
    assert found["train_samples"] == 24
    gathered = json.loads((run.path / "all_results.json").read_text(encoding="utf-8"))
    assert gathered == {"predict_rouge-1": 12.5, **found}


def test_only_the_prefix_is_trained_and_saved(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(settings, "run")
    assert isinstance(train(run), FinishedEvent)
    tensors = prefix_of(run, 4)
    assert set(tensors) == {"transformer.prefix_encoder.embedding.weight"}
    assert tensors["transformer.prefix_encoder.embedding.weight"].dtype == torch.float32
    prefix = load_prefix(run.checkpoint_path(4), load_model(settings.model_name_or_path).config)
    assert prefix.length == 3
    info = run.checkpoints()[-1]
    assert (info.step, info.pre_seq_len, info.loss) == (4, 3, curve(run)[-1][1])
    assert info.base_model == settings.model_name_or_path


def test_the_prefix_starts_as_the_originals_does(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, learning_rate=1e-8, max_steps=1), "run")
    train(run)
    torch.manual_seed(settings.seed)
    fresh = torch.nn.Embedding(3, 2 * 2 * 2 * 8).weight
    (started,) = prefix_of(run, 1).values()
    assert torch.allclose(started, fresh, atol=1e-7)


def test_training_lowers_the_loss(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, max_steps=30, learning_rate=0.1), "run")
    train(run)
    losses = [point[1] for point in curve(run)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_accumulated_batches_weigh_alike_whatever_their_length(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "plan_step", lambda *_: StepPlan())
    losses: list[float] = []
    compute = trainer_module.PrefixTrainer.compute_loss

    def recording(self: object, *args: object, **kwargs: object) -> torch.Tensor:
        loss = compute(self, *args, **kwargs)  # type: ignore[arg-type]
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(trainer_module.PrefixTrainer, "compute_loss", recording)
    run = store.create(replace(settings, max_steps=1, gradient_accumulation_steps=4), "run")
    train(run)
    assert len(losses) == 4
    assert curve(run)[0][1] == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_the_rate_falls_to_zero_along_a_line(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, learning_rate=0.02), "run")
    train(run)
    assert [point[2] for point in curve(run)] == pytest.approx([0.02, 0.015, 0.01, 0.005])


def test_recomputing_activations_changes_no_number(store: RunStore, settings: TrainingSettings) -> None:
    runs = [store.create(replace(settings, gradient_checkpointing=choice), choice) for choice in ("off", "on")]
    for run in runs:
        train(run)
    kept, recomputed = (next(iter(prefix_of(run, 4).values())) for run in runs)
    assert torch.allclose(kept, recomputed, atol=1e-6)


@pytest.mark.parametrize(("loss", "sentence"), [(0.0, "the loss is exactly 0"), (float("nan"), "no longer a finite")])
def test_a_collapsed_loss_stops_the_run_and_keeps_the_last_checkpoint(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch, loss: float, sentence: str
) -> None:
    compute = trainer_module.PrefixTrainer.compute_loss

    def collapsing(self: trainer_module.PrefixTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        healthy = compute(self, *args, **kwargs)  # type: ignore[arg-type]
        return healthy * loss if self.state.global_step == 2 else healthy

    monkeypatch.setattr(trainer_module.PrefixTrainer, "compute_loss", collapsing)
    run = store.create(settings, "run")
    with pytest.raises(RunError, match=sentence) as stop:
        train(run)
    assert "at step 3" in stop.value.en
    assert "checkpoint-2 is the last good checkpoint" in stop.value.en
    assert [info.step for info in run.checkpoints()] == [2]
    assert all(torch.isfinite(tensor).all() for tensor in prefix_of(run, 2).values())


def test_a_full_disk_fails_the_run_with_a_sentence_and_keeps_earlier_checkpoints(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = trainer_module.publish_directory

    def full(staged: Path, target: Path) -> None:
        if target.name == "checkpoint-4":
            raise OSError(28, "No space left on device")
        publish(staged, target)

    monkeypatch.setattr(trainer_module, "publish_directory", full)
    run = store.create(settings, "run")
    with pytest.raises(RunError, match="no space left"):
        train(run)
    assert [info.step for info in run.checkpoints()] == [2]


def test_a_stop_request_finishes_the_step_saves_and_says_so(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, max_steps=50, save_steps=50), "run")
    original = run.append

    def append_and_ask(event: object) -> None:
        original(event)  # type: ignore[arg-type]
        if isinstance(event, StepEvent) and event.step == 3:
            run.set_stop_request(True)

    run.append = append_and_ask  # type: ignore[method-assign]
    ended = train(run)
    assert isinstance(ended, StoppedEvent)
    assert [info.step for info in run.checkpoints()] == [ended.step] == [4]


@pytest.mark.parametrize("kept_step", [0, 2])
def test_a_stop_request_before_the_first_step_trains_nothing(
    store: RunStore, settings: TrainingSettings, kept_step: int
) -> None:
    run = store.create(settings, "run")
    if kept_step:
        train(run)
        run = half_done_copy(store, run, kept_step)
    before = curve(run)
    run.set_stop_request(True)
    ended = train(run)
    assert isinstance(ended, StoppedEvent) and ended.step == kept_step
    assert [step for step, *_ in curve(run)] == [step for step, *_ in before if step <= kept_step]
    assert [info.step for info in run.checkpoints()] == ([kept_step] if kept_step else [])


def test_a_last_word_leaves_no_stop_request_to_the_run_that_goes_on(
    store: RunStore, settings: TrainingSettings
) -> None:
    run = store.create(settings, "run")
    run.set_stop_request(True)
    conclude(run, StoppedEvent(step=1, en="Stopped.", zh="已停止。"))
    assert not run.stop_requested()
    assert (run.state().status, run.state().message_zh) == (Status.STOPPED, "已停止。")


def test_only_as_many_rows_are_used_as_asked_for(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(
        settings, validation_file=settings.train_file, eval_steps=1, max_train_samples=5, max_eval_samples=3
    )
    dataset, validation = load_data(store.create(asked, "run"), asked)
    assert validation is not None
    assert (len(dataset), len(validation)) == (5, 3)


def test_a_warm_start_takes_the_prefix_and_a_fresh_optimizer(store: RunStore, settings: TrainingSettings) -> None:
    first = store.create(settings, "first")
    train(first)
    warm = replace(settings, ptuning_checkpoint=str(first.checkpoint_path(4)), learning_rate=1e-8, max_steps=1)
    second = store.create(warm, "second")
    train(second)
    (before,), (after,) = prefix_of(first, 4).values(), prefix_of(second, 1).values()
    assert torch.allclose(before, after, atol=1e-6)
    messages = [event.en for event in second.events()[0] if isinstance(event, MessageEvent)]
    assert any("Warm start" in message for message in messages)


def test_a_warm_start_of_another_length_is_refused(store: RunStore, settings: TrainingSettings) -> None:
    first = store.create(replace(settings, max_steps=1), "first")
    train(first)
    asked = replace(settings, ptuning_checkpoint=str(first.checkpoint_path(1)), pre_seq_len=5)
    with pytest.raises(RunError, match=r"has 3 tokens .* --pre_seq_len 5"):
        train(store.create(asked, "second"))


def test_a_warm_start_from_a_truncated_file_is_refused(store: RunStore, settings: TrainingSettings) -> None:
    broken = store.root / "prefix.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x00\x01")
    with pytest.raises(PrefixError, match="truncated or damaged"):
        train(store.create(replace(settings, ptuning_checkpoint=str(broken)), "run"))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_prefix_is_trained_on_a_quantized_base(store: RunStore, settings: TrainingSettings, bits: int) -> None:
    exact, quantized = store.create(settings, "exact"), store.create(replace(settings, quantization_bit=bits), "run")
    train(exact)
    train(quantized)
    losses = [(a[1], b[1]) for a, b in zip(curve(exact), curve(quantized), strict=True)]
    assert losses[0][0] != losses[0][1]
    assert all(a == pytest.approx(b, rel=0.05) for a, b in losses)
    (found,), (expected,) = prefix_of(quantized, 4).values(), prefix_of(exact, 4).values()
    assert 0 < (found - expected).norm() / expected.norm() < 0.1


def test_validation_loss_is_measured_when_asked(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(settings, validation_file=settings.train_file, eval_steps=2, max_eval_samples=6)
    run = store.create(asked, "run")
    train(run)
    measured = [event for event in run.events()[0] if isinstance(event, EvaluationEvent)]
    assert [event.step for event in measured] == [2, 4]
    assert all(event.metrics["loss"] > 0 for event in measured)


def test_the_validation_loss_is_the_mean_over_tokens_whatever_the_batches(
    store: RunStore, settings: TrainingSettings
) -> None:
    """The rows' answers are of unlike lengths, so that a mean of batches' means would depend on who shares one."""
    found = []
    for name, train_rows, eval_rows in (("a", 4, 32), ("b", 4, 3), ("c", 2, 1)):
        asked = replace(
            settings, max_steps=1, per_device_train_batch_size=train_rows, per_device_eval_batch_size=eval_rows
        )
        # Nothing is learnt, so that all validate the same weights.
        asked = replace(asked, validation_file=settings.train_file, eval_steps=1, learning_rate=1e-8)
        run = store.create(replace(asked, retention_check="off"), name)
        train(run)
        found += [event.metrics["loss"] for event in run.events()[0] if isinstance(event, EvaluationEvent)]
        model = load_model(settings.model_name_or_path)
        tokenizer = load_tokenizer(settings.model_name_or_path)
        table = read_table(settings.train_file)
        examples, _ = read_examples(table, find_columns(table, settings))
        prefix = load_prefix(run.checkpoint_path(1), model.config)
        assert found[-1] == pytest.approx(mean_loss(model, tokenizer, examples, settings, prefix), rel=1e-5)
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_old_checkpoints_are_deleted_beyond_the_limit(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, save_steps=1, save_total_limit=2), "run")
    train(run)
    assert [info.step for info in run.checkpoints()] == [3, 4]


def test_epochs_may_be_asked_for_instead_of_steps(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, max_steps=-1, num_train_epochs=0.5), "run")
    assert train(run).step == 3


def test_dropped_rows_are_said(store: RunStore, settings: TrainingSettings, tmp_path: Path) -> None:
    rows = write_examples(tmp_path / "rows.json")
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"content": "", "summary": "x"}\n')
    run = store.create(replace(settings, train_file=str(rows), max_steps=1), "run")
    train(run)
    messages = [event for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert "1 rows have an empty prompt or answer" in messages[0].en


def test_general_rows_are_mixed_in_and_counted(store: RunStore, settings: TrainingSettings, tmp_path: Path) -> None:
    general = write_general_examples(tmp_path / "general.json")
    asked = replace(
        settings,
        mix_file=str(general),
        mix_ratio=0.25,
        max_steps=1,
        prompt_column="content",
        response_column="summary",
    )
    run = store.create(asked, "run")
    train(run)
    events = run.events()[0]
    (started,) = [event for event in events if isinstance(event, StartedEvent)]
    assert (started.examples, started.general_examples) == (24, 8)
    assert any("24 rows + 8 general rows (25% of" in event.en for event in events if isinstance(event, MessageEvent))


def test_skipped_rows_are_told_with_their_lines(store: RunStore, settings: TrainingSettings, tmp_path: Path) -> None:
    rows = write_examples(tmp_path / "rows.json")
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"content": "a"}\n{\n')
    asked = replace(settings, train_file=str(rows), max_steps=1)
    with pytest.raises(DataError, match="line 26"):
        train(store.create(asked, "refused"))
    run = store.create(replace(asked, skip_bad_rows=True), "run")
    assert isinstance(train(run), FinishedEvent)
    messages = [event for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert "2 broken rows are skipped (lines 25, 26)" in messages[0].en
    assert "第 25、26 行" in messages[0].zh
