"""Out of memory, a run takes smaller passes and goes on: with the same loss and the same gradients."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import write_general_examples
from tiny_checkpoint import tiny_settings
from torch import Tensor

from chatglm2 import ChatGLMForConditionalGeneration
from chatglm2.model import prefix as prefix_module
from training.loop import health
from training.loop.passes import is_out_of_memory
from training.plan.step_plan import StepPlan
from training.runs.events import EndedEvent, EvaluationEvent, FailedEvent, FinishedEvent, MessageEvent, step_history
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings
from training.worker import alone

Change = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_module, "PREFIX_DROPOUT", 0.0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(tmp_path_factory.mktemp("passes"), max_steps=2, per_device_train_batch_size=8)


def short_of() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fits(rows: int, where: str = "forward", after: int = 0) -> Change:
    """Holds so many rows a pass; more fail in its forward or late in its backward part, after ``after`` that fit."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        forward, seen = ChatGLMForConditionalGeneration.forward, itertools.count()

        @functools.wraps(forward)
        def limited(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
            fails = self.training and len(input_ids) > rows and next(seen) >= after
            if fails and where == "forward":
                raise short_of()
            found = forward(self, input_ids=input_ids, **kwargs)
            if fails:
                found.loss.register_hook(lambda gradient: _fail_late(self))
            return found

        monkeypatch.setattr(ChatGLMForConditionalGeneration, "forward", limited)

    return change


def _fail_late(model: ChatGLMForConditionalGeneration) -> None:
    """Let a part of what learns have its gradient before the next part runs out of memory."""
    *earlier, last = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order: list[Tensor] = []

    def refuse(parameter: Tensor) -> None:
        order.append(parameter)
        if len(order) == (2 if earlier else 1):
            [handle.remove() for handle in handles]
            raise short_of()

    handles = [parameter.register_post_accumulate_grad_hook(refuse) for parameter in (*earlier, last)]


def watch(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The gradients of each step."""
    seen: list[list[Tensor]] = []
    look = health.HealthWatch.look

    def record(self: Any, step: int, losses: Any, gradients: Any) -> Any:
        seen.append([gradient.clone() for gradient in gradients])
        return look(self, step, losses, gradients)

    monkeypatch.setattr(health.HealthWatch, "look", record)
    return seen


def trained(
    store: RunStore, settings: TrainingSettings, name: str, change: Change | None = None, plan: StepPlan | None = None
) -> tuple[Run, EndedEvent, list[list[Tensor]]]:
    run = store.create(settings, name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = watch(monkeypatch)
        if plan is not None:
            monkeypatch.setattr(alone, "plan_step", lambda *_: plan)
        if change is not None:
            change(monkeypatch)
        return run, alone.carry_out(run), seen


def said(run: Run) -> list[str]:
    return [event.en for event in run.events()[0] if isinstance(event, MessageEvent)]


KINDS: dict[str, dict[str, Any]] = {
    "prefix": {},
    "projection": {"prefix_projection": True},
    "accumulated": {"gradient_accumulation_steps": 3, "prefix_projection": True, "per_device_train_batch_size": 4},
    "all weights": {"pre_seq_len": None, "learning_rate": 1e-3},
    "padding learnt": {"ignore_pad_token_for_loss": False},
}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_smaller_passes_give_the_same_loss_and_gradients_and_the_run_ends_well(
    tmp_path: Path, settings: TrainingSettings, kind: str, where: str
) -> None:
    store, asked = RunStore(tmp_path), replace(settings, gradient_checkpointing="off", **KINDS[kind])
    whole, _, expected = trained(store, asked, "whole", plan=StepPlan())
    run, ended, found = trained(store, asked, "short", fits(3, where), plan=StepPlan())
    assert isinstance(ended, FinishedEvent)
    assert len(found) == len(expected) == 2
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    losses = [[event.loss for event in step_history(each.events()[0])] for each in (whole, run)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    tokens = [
        [event.tokens_per_second * event.seconds_per_step for event in step_history(each.events()[0])]
        for each in (whole, run)
    ]
    assert tokens[0] == pytest.approx(tokens[1], rel=1e-6)
    rows = asked.per_device_train_batch_size
    assert [text for text in said(run) if "Memory ran out" in text] == [
        f"Memory ran out with {rows} rows at a time. The run goes on with 2 at a time, and computes activations again: "
        "slower, with the same loss."
    ]


def test_passes_that_fitted_before_one_that_did_not_still_count(tmp_path: Path, settings: TrainingSettings) -> None:
    asked = replace(settings, gradient_checkpointing="off", **KINDS["accumulated"])
    _, _, expected = trained(RunStore(tmp_path), asked, "whole", plan=StepPlan())
    _, _, found = trained(RunStore(tmp_path), asked, "short", fits(3, "backward", after=2), plan=StepPlan())
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_merged_batches_keep_their_rows_weights(tmp_path: Path, settings: TrainingSettings) -> None:
    asked = replace(settings, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    _, _, expected = trained(RunStore(tmp_path), asked, "whole", plan=StepPlan())
    run, _, found = trained(RunStore(tmp_path), asked, "short", fits(3), plan=StepPlan(merged=4))
    assert any("Memory ran out with 8 rows" in text for text in said(run))
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_prefix_that_is_kept_to_its_base_is_the_same_however_its_batches_are_merged(
    tmp_path: Path, settings: TrainingSettings
) -> None:
    store, questions = RunStore(tmp_path), str(write_general_examples(tmp_path / "questions.jsonl"))
    kept = replace(settings, keep=1.0, keep_file=questions, keep_own=0)
    asked = replace(kept, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    expected, found = (trained(store, asked, str(merged), plan=StepPlan(merged=merged))[2] for merged in (1, 4))
    loose = trained(store, replace(asked, keep=0.0), "loose", plan=StepPlan())[2]
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(expected[0][0], loose[0][0], atol=1e-4)


def test_the_smaller_size_stays(tmp_path: Path, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fits(4)(monkeypatch)
    limited = ChatGLMForConditionalGeneration.forward

    @functools.wraps(limited)
    def counting(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        return limited(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(ChatGLMForConditionalGeneration, "forward", counting)
    trained(RunStore(tmp_path), settings, "run")
    assert sizes == [8, 4, 4, 4, 4]


def test_one_row_that_does_not_fit_ends_with_what_to_do_and_nothing_that_resuming_refuses(
    tmp_path: Path, settings: TrainingSettings
) -> None:
    _, ended, _ = trained(RunStore(tmp_path), settings, "run", fits(0))
    assert isinstance(ended, FailedEvent)
    assert "Close other programs on it and resume the run. Or start a new one" in ended.en
    resuming = ended.en.partition("Or start a new one")[0]
    assert "--" not in resuming


def test_labels_that_are_smoothed_are_not_split(tmp_path: Path, settings: TrainingSettings) -> None:
    smoothed = replace(settings, extra_arguments='{"label_smoothing_factor": 0.1}')
    run, ended, _ = trained(RunStore(tmp_path), smoothed, "run", fits(4))
    assert isinstance(ended, FailedEvent) and not said(run)


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        (short_of(), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_shortage_is_known_whoever_tells_of_it(error: Exception, is_short: bool) -> None:
    assert is_out_of_memory(error) == is_short


VALIDATED: dict[str, Any] = {"eval_steps": 1, "retention_check": "off", "per_device_train_batch_size": 5}


def holds_validated(rows: int) -> Change:
    """Holds so many rows of a validation."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        forward = ChatGLMForConditionalGeneration.forward

        @functools.wraps(forward)
        def limited(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
            if not self.training and kwargs.get("labels") is not None and len(input_ids) > rows:
                raise short_of()
            return forward(self, input_ids=input_ids, **kwargs)

        monkeypatch.setattr(ChatGLMForConditionalGeneration, "forward", limited)

    return change


@pytest.mark.parametrize("rows", [1, 2])
def test_a_validation_goes_on_with_fewer_rows_and_the_same_result(
    tmp_path: Path, settings: TrainingSettings, rows: int
) -> None:
    store, asked = RunStore(tmp_path), replace(settings, validation_file=settings.train_file, **VALIDATED)
    whole, *_ = trained(store, asked, "whole")
    run, ended, _ = trained(store, asked, "short", holds_validated(rows))
    assert isinstance(ended, FinishedEvent)
    expected, found = [
        [event.metrics["loss"] for event in each.events()[0] if isinstance(event, EvaluationEvent)]
        for each in (whole, run)
    ]
    assert len(found) == 2 and found == pytest.approx(expected, abs=1e-5)
    told = [text for text in said(run) if "were validated" in text]
    assert told[0] == (
        "Memory ran out while 8 rows were validated. The validation goes on with 4 at a time: slower, with the same "
        "result."
    )
    assert len(told) == (2 if rows == 2 else 3)  # and not again in the second validation


def test_a_validation_of_which_not_one_row_fits_ends_the_run_with_a_reason(
    tmp_path: Path, settings: TrainingSettings
) -> None:
    asked = replace(settings, validation_file=settings.train_file, **VALIDATED)
    _, ended, _ = trained(RunStore(tmp_path), asked, "short", holds_validated(0))
    assert isinstance(ended, FailedEvent) and "too little free memory" in ended.en


@pytest.mark.parametrize("moment", [1, 2])
def test_an_optimizer_that_finds_no_memory_is_asked_again_and_the_passes_are_smaller(
    tmp_path: Path, settings: TrainingSettings, moment: int
) -> None:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        """The first or the second of an Adam's moments finds no memory, once."""
        zeros_like, asked = torch.zeros_like, itertools.count(1)

        def limited(*arguments: Any, **named: Any) -> Tensor:
            if "memory_format" in named and next(asked) == moment:
                raise short_of()
            return zeros_like(*arguments, **named)

        monkeypatch.setattr(torch, "zeros_like", limited)

    store, asked = RunStore(tmp_path), replace(settings, gradient_checkpointing="off")
    _, _, expected = trained(store, asked, "whole", plan=StepPlan())
    run, ended, found = trained(store, asked, "short", change, plan=StepPlan())
    assert isinstance(ended, FinishedEvent)
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert any("The run goes on with 4 at a time" in text for text in said(run))
