"""Whether training still works: a loss or gradient that has broken down must not reach what is trained.

Waiting for a GPU's answer would leave the GPU without work. So it is asked without waiting and read a step later; until
then a broken step changes nothing. Knows numbers and what to say of broken ones; computes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatglm2.errors import RunError
from chatglm2.memory.host_copy import HostCopy
from training.loop.meter import Meter
from training.runs.events import is_collapsed
from training.runs.store import Run
from training.settings.train import TrainingSettings


@dataclass(frozen=True)
class Collapse:
    """What broke down at ``step``: the loss, or with no loss given the gradient."""

    step: int
    loss: float | None


class _Question:
    """Losses of a step, and 1 where its gradients are finite, on their way to the host."""

    def __init__(self, step: int, answer: Tensor) -> None:
        self.step = step
        self._answer = HostCopy(answer)

    def read(self) -> Collapse | None:
        *losses, are_finite = self._answer.read()
        broken = next((loss for loss in losses if is_collapsed(loss)), None)
        return Collapse(self.step, broken) if broken is not None or not are_finite else None


class HealthWatch:
    """Looks at every step before it changes what is trained."""

    def __init__(self) -> None:
        self._open: _Question | None = None

    @torch.no_grad()
    def look(self, step: int, losses: Sequence[Tensor], gradients: Sequence[Tensor]) -> Collapse | None:
        """Check a step; on a GPU the answer is that of the step before, and broken gradients become zeros."""
        values = torch.stack([loss.detach().float() for loss in losses])
        checks = [torch.isfinite(gradient).all() for gradient in gradients]  # none with DeepSpeed, which keeps them
        finite = torch.stack(checks).all() if checks else torch.ones((), dtype=torch.bool)
        finite = finite.to(values.device)  # FSDP may keep gradients on the CPU
        if values.is_cuda:
            broken = ~(finite & (torch.isfinite(values) & (values != 0)).all())
            for gradient in gradients:
                gradient.masked_fill_(broken.to(gradient.device), 0.0)
        earlier = self.settle()
        self._open = _Question(step, torch.cat((values, finite.float().unsqueeze(0))))
        return earlier if values.is_cuda else self.settle()

    def settle(self) -> Collapse | None:
        """The answer that has not been read yet, if there is one; waits for it."""
        question, self._open = self._open, None
        return question.read() if question is not None else None


class HealthGuard(TrainerCallback):
    """Ends a training before a broken gradient reaches what is trained, or a checkpoint."""

    def __init__(self, run: Run, settings: TrainingSettings, meter: Meter) -> None:
        self.run = run
        self.settings = settings
        self.meter = meter
        self._watch = HealthWatch()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the step's losses and gradients.

        Raises:
            RunError: if a loss is exactly 0, or a loss or gradient is not a finite number.
        """
        assert model is not None
        learning = (parameter.grad for parameter in model.parameters() if parameter.requires_grad)
        gradients = [_local_part(gradient) for gradient in learning if gradient is not None]
        self._end_at(self._watch.look(state.global_step + 1, self.meter.take_losses(), gradients))

    def require_sound(self) -> None:
        """Wait for what is not known yet of the last step.

        Raises:
            RunError: if it was broken.
        """
        self._end_at(self._watch.settle())

    def _end_at(self, collapse: Collapse | None) -> None:
        if collapse is not None:
            raise self._explain(collapse.step, collapse.loss)

    def _explain(self, step: int, loss: float | None) -> RunError:
        """The error for a training that broke down, with what is left of it."""
        kept = self.run.checkpoints()
        left_en = f"{kept[-1].path.name} is the last good checkpoint." if kept else "There is no checkpoint yet."
        left_zh = f"最后一个完好的检查点是 {kept[-1].path.name}。" if kept else "尚未保存任何检查点。"
        if loss == 0.0:
            found_en, found_zh = "the loss is exactly 0", "损失恰好为 0"
        else:
            what = "gradient" if loss is None else "loss"
            found_en = f"the {what} is no longer a finite number"
            found_zh = f"{'梯度' if loss is None else '损失'}已不是有限数值"
        what_en, what_zh = ("the weights", "权重") if self.settings.trains_all_weights else ("the prefix", "前缀")
        rate = self.settings.learning_rate
        return RunError(
            f"Training stopped at step {step}: {found_en}, so {what_en} would be ruined. {left_en} "
            f"Train with a learning rate below {rate:g}, or with --dtype float32 or bfloat16.",
            f"训练在第 {step} 步停止：{found_zh}，继续会毁掉{what_zh}。{left_zh}"
            f"请使用低于 {rate:g} 的学习率，或用 --dtype float32 或 bfloat16。",
        )


def _local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over several."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
