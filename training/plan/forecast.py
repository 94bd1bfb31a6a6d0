"""What a training will take of a device, before anything starts: its memory line by line, and whether that is there.

Knows settings, sizes and what is free; loads nothing. The page and the command line ask it the same question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from chatglm2 import ChatGLMConfig
from chatglm2.memory.estimate import context_bytes, engine_bytes, slot_bytes, weight_bytes
from training.plan.step_plan import Place, StepPlan, choose_plan, learning_bytes, smallest_plan, workspaces
from training.settings.train import TrainingSettings

# torch takes a GPU's memory in pieces of 20 MiB, and passes of unlike lengths leave holes in it: replaying the
# allocations of AdGen's batches left from 2 to 5 % unused. `training/runs/launch.py` asks for segments that grow;
# with those that do not, it was up to 37 %.
PIECES_BYTES = 2 * 20 * 2**20
HOLES_SHARE = 0.02
# What a training leaves to chat at the least: two short conversations, see `chatglm2.serving.room`.
CHAT_CONVERSATIONS, CHAT_COLUMNS = 2, 1024


@dataclass(frozen=True)
class MemoryForecast:
    """The memory of a run's process on its device, in bytes.

    Attributes:
        weights: its own; 0 where it uses another process's.
        context: what a process takes for being there.
        workspaces: the products'.
        learning: what learns, its gradient and its moments.
        plan: how its steps will be computed.
        least: a pass of the smallest way.
        free: what the run may have: what is free, and what idle conversations would give up.
        kept_for_chat: what it has to leave.
    """

    weights: int
    context: int
    workspaces: int
    learning: int
    plan: StepPlan
    least: StepPlan
    free: int
    kept_for_chat: int
    device: torch.device

    @property
    def lines(self) -> Mapping[str, int]:
        """What is expected, part by part."""
        memory = self.plan.memory
        return {
            "weights": self.weights,
            "context": self.context,
            "workspaces": self.workspaces,
            "learning": self.learning,
            "activations": memory.activations,
            "prefixes": memory.prefixes,
            "working": memory.working,
            "allocator": self._pass(self.plan) - self.plan.bytes,
        }

    @property
    def total(self) -> int:
        """What the run is expected to take."""
        return self._fixed + self._pass(self.plan)

    @property
    def needed(self) -> int:
        """Without which it cannot run."""
        return self._fixed + self._pass(self.least)

    @property
    def fits(self) -> bool:
        """Whether there is as much, and something left for chat."""
        return self.needed + self.kept_for_chat <= self.free

    @property
    def left(self) -> int:
        """What conversations may have meanwhile."""
        return max(self.free - self.total, 0)

    @property
    def _fixed(self) -> int:
        return self.weights + self.context + self.workspaces + self.learning

    def _pass(self, plan: StepPlan) -> int:
        return plan.bytes + (allocator_bytes(plan) if self.context else 0)


def allocator_bytes(plan: StepPlan) -> int:
    """What torch's allocator takes of a GPU above what tensors do."""
    return PIECES_BYTES + int(HOLES_SHARE * plan.bytes)


def forecast_memory(place: Place, settings: TrainingSettings, free: int, *, has_weights: bool) -> MemoryForecast:
    """What a run takes at ``place``, where it may have ``free`` bytes; ``has_weights``: another process has them."""
    shared = has_weights or settings.trains_all_weights  # then they are among what learns
    weights = 0 if shared else weight_bytes(place.config, place.dtype.itemsize, place.bits)
    context, products, learning = context_bytes(place.device), workspaces(place.device), learning_bytes(settings, place)
    return MemoryForecast(
        weights=weights,
        context=context,
        workspaces=products,
        learning=learning,
        plan=choose_plan(place, settings, free - weights - context - products - learning),
        least=smallest_plan(place, settings),
        free=free,
        kept_for_chat=slot_bytes(place.config, place.dtype.itemsize, CHAT_CONVERSATIONS * CHAT_COLUMNS),
        device=place.device,
    )


def serving_lines(
    config: ChatGLMConfig, item_bytes: int, bits: int, device: torch.device, columns: int
) -> dict[str, int]:
    """What a page takes on its device while conversations of ``columns`` tokens in all are held, part by part."""
    return {
        "weights": weight_bytes(config, item_bytes, bits),
        "context": context_bytes(device),
        "working": engine_bytes(device),
        "conversations": slot_bytes(config, item_bytes, columns),
    }
