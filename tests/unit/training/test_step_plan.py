"""A step runs as many of its batches at a time as fit, and gives what they give one after another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import tiny_settings

from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration, load_model
from training.loop.run_data import load_data
from training.loop.trainer import PrefixTrainer
from training.plan import step_plan
from training.plan.pass_memory import PassShape, pass_memory
from training.plan.step_plan import StepPlan, bytes_wanted, general_rows_at_once, mergeable, place_for, plan_step
from training.runs.events import StepEvent
from training.runs.store import RunStore
from training.settings.keep_recipe import LONGEST_ROW_TOKENS
from training.settings.train import TrainingSettings
from training.worker.alone import train

GIB = 2**30
ORIGINAL = {
    "pre_seq_len": 128,
    "max_source_length": 64,
    "max_target_length": 128,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
}


@pytest.fixture(scope="module")
def real_size() -> ChatGLMForConditionalGeneration:
    with torch.device("meta"):
        return ChatGLMForConditionalGeneration(ChatGLMConfig()).half()


@pytest.mark.parametrize(
    ("free_gib", "merged", "recomputes"),
    [(70, 16, False), (8, 8, False), (4, 16, True), (1.2, 8, True), (0.1, 1, True)],
)
def test_the_fastest_way_that_fits_is_picked(
    free_gib: float,
    merged: int,
    recomputes: bool,
    real_size: ChatGLMForConditionalGeneration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_plan, "free_bytes", lambda device: int(free_gib * GIB))
    monkeypatch.setattr(step_plan, "runs_triton", lambda device, dtype: True)
    plan = plan_step(real_size, TrainingSettings.from_dict(ORIGINAL))
    assert (plan.merged, plan.recomputes) == (merged, recomputes)
    assert plan.bytes <= free_gib * GIB or merged == 1


@pytest.mark.parametrize(("asked", "recomputes"), [("on", True), ("off", False)])
def test_what_is_asked_for_is_done(
    asked: str, recomputes: bool, real_size: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_plan, "free_bytes", lambda device: 70 * GIB)
    plan = plan_step(real_size, TrainingSettings.from_dict({**ORIGINAL, "gradient_checkpointing": asked}))
    assert plan.recomputes == recomputes


def test_what_is_kept_is_what_was_measured() -> None:
    # `benchmarks.training` on an H100: 16 rows of 193 tokens, what was allocated beside weights and what learns.
    shape = PassShape(item_bytes=2, rows=16, length=193, labels=129, pre_seq_len=128)
    assert pass_memory(ChatGLMConfig(), shape, recomputes=False).total / GIB == pytest.approx(7.54, rel=0.03)
    quantized = replace(shape, unpacks=True)
    assert pass_memory(ChatGLMConfig(), quantized, recomputes=False).total / GIB == pytest.approx(7.55, rel=0.03)
    assert pass_memory(ChatGLMConfig(), quantized, recomputes=True).total / GIB == pytest.approx(1.39, rel=0.08)


def test_only_prefixes_without_learnt_padding_are_merged() -> None:
    settings = TrainingSettings.from_dict({**ORIGINAL, "gradient_accumulation_steps": 6})
    assert mergeable(settings) == [6, 3, 2, 1]
    assert mergeable(replace(settings, ignore_pad_token_for_loss=False)) == [1]
    assert mergeable(replace(settings, pre_seq_len=None, keep=0.0)) == [1]
    assert mergeable(replace(settings, extra_arguments='{"label_smoothing_factor": 0.1}')) == [1]


@pytest.mark.parametrize("rows", [1, 2])
def test_merged_batches_give_the_same_losses_and_prefix(rows: int, tmp_path: Path) -> None:
    settings = tiny_settings(
        tmp_path, max_steps=4, per_device_train_batch_size=rows, gradient_accumulation_steps=4, logging_steps=1
    )
    losses, prefixes = [], []
    for plan in (StepPlan(), StepPlan(merged=2), StepPlan(merged=4), StepPlan(merged=4, recomputes=True)):
        run = RunStore(tmp_path / "output").create(settings, f"merged-{plan.merged}-{plan.recomputes}")
        torch.manual_seed(0)
        model = load_model(settings.model_name_or_path, dtype="float32")
        encoder = model.prepare_prefix_tuning(int(settings.pre_seq_len or 0))
        encoder.dropout.p = 0.0
        dataset, _ = load_data(run, settings)
        PrefixTrainer(run, settings, model, dataset, plan=plan).train()
        losses.append([event.loss for event in run.events()[0] if isinstance(event, StepEvent)])
        prefixes.append(encoder.embedding.weight.detach().clone())
    assert len(losses[0]) == 4
    for other_losses, prefix in zip(losses[1:], prefixes[1:], strict=True):
        assert other_losses == pytest.approx(losses[0], rel=1e-4)
        torch.testing.assert_close(prefix, prefixes[0], rtol=1e-3, atol=1e-4)


def test_a_run_says_how_many_rows_run_at_a_time(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    run = RunStore(tmp_path / "output").create(settings, "run")
    train(run)
    lines = [json.loads(line) for line in (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    messages = [line["en"] for line in lines if line["kind"] == "message"]
    assert any("memory for 6 rows at a time: 1 instead of 3 batches" in message for message in messages)


def test_what_is_wanted_is_the_smallest_pass_and_what_learns(
    real_size: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings.from_dict(ORIGINAL | {"dtype": "float16", "gradient_checkpointing": "on"})
    monkeypatch.setattr(step_plan, "free_bytes", lambda device: 0)
    smallest = plan_step(real_size, settings)
    assert smallest.merged == 1
    prefix = 128 * 28 * 2 * 2 * 128  # tokens, layers, keys and values, groups, channels
    place = place_for(settings, real_size.config, torch.device("cpu"))
    assert bytes_wanted(settings, place) == pytest.approx(smallest.bytes + prefix * 4 * 4, rel=0.01)
    everything = replace(settings, pre_seq_len=None, keep=0.0, learning_rate=1e-5, dtype="bfloat16")
    assert bytes_wanted(everything, place_for(everything, real_size.config, torch.device("cpu"))) > 6.2e9 * 2 * 4


def test_rows_of_a_batch_run_one_after_another_where_there_is_no_memory_for_all(
    real_size: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings.from_dict(ORIGINAL | {"per_device_train_batch_size": 16, "dtype": "float16"})
    monkeypatch.setattr(step_plan, "free_bytes", lambda device: int(0.6 * GIB))
    monkeypatch.setattr(step_plan, "runs_triton", lambda device, dtype: True)
    plan = plan_step(real_size, settings)
    assert (plan.merged, plan.recomputes, plan.rows) == (1, True, 4)
    assert plan_step(real_size, settings, processes=2).rows is None  # the others would not know


@pytest.mark.parametrize("plan", [StepPlan(merged=16), StepPlan(merged=1), StepPlan(merged=1, rows=1)], ids=str)
def test_general_rows_take_no_more_than_a_pass_of_the_task(plan: StepPlan) -> None:
    settings = TrainingSettings.from_dict({**ORIGINAL, "per_device_train_batch_size": 2})
    tokens = (plan.rows or 2 * plan.merged) * (settings.max_source_length + settings.max_target_length + 1)
    general = general_rows_at_once(settings, plan)
    assert general == 1 or general * LONGEST_ROW_TOKENS <= tokens
