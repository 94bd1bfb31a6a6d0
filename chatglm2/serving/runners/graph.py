"""Decoding on a GPU: one CUDA graph a step.

Knows CUDA graphs; what is captured is `gpu`'s. Knows no requests. A graph replays with new ids, positions, columns and
slots, which lie in fixed buffers, so all that the host launches of a step is one graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm2.kernels.availability import runs_triton
from chatglm2.kernels.launching import overlapping_launches
from chatglm2.kernels.layer.rotation import Places
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch, PromptPart
from chatglm2.serving.runners.gpu import GpuPasses

WARM_UP_STEPS = 2
# Prompts of these lengths between them use every kernel that a prompt may: none is left to compile for the first one.
WARM_UP_PROMPTS = (1, 2, 5, 12, 40, 100)


class GraphRunner:
    """Replays captured decode steps; captures one for 1, 2, 4, … rows when it is built."""

    runs_ahead = True
    threads: int | None = None

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        started = time.perf_counter()
        self._passes = GpuPasses(model, cache, max_length)
        sizes = [1]
        while sizes[-1] < cache.slots:
            sizes.append(sizes[-1] * 2)
        for length in WARM_UP_PROMPTS:
            if length <= cache.capacity:
                self.prefill([PromptPart([0] * length, slot=0, start=0, prefix_length=0)])
        self._steps = [_CapturedStep(self._passes.step, size, model.device) for size in sizes]
        torch.cuda.synchronize()
        self.compile_seconds = time.perf_counter() - started

    @staticmethod
    def supports(model: ChatGLMForConditionalGeneration) -> bool:
        """Whether the kernels fit the model: half precision, no extra biases, channels that are a power of two."""
        config = model.config
        runs = runs_triton(model.device, model.dtype)
        return runs and config.kv_channels in (16, 32, 64, 128, 256) and not config.add_bias_linear

    def decode(self, batch: DecodeBatch) -> Tensor:
        rows = len(batch.slots)
        step = next(step for step in self._steps if step.size >= rows)
        return step.replay(batch)[:rows]

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        return self._passes.prefill(parts)


class _CapturedStep:
    """A decode step for ``size`` rows as a CUDA graph, and its buffers."""

    def __init__(self, compute: Callable[[Tensor, Places], Tensor], size: int, device: torch.device) -> None:
        self.size = size
        self._ids = torch.zeros(size, dtype=torch.long, device=device)
        self._places = torch.zeros(3, size, dtype=torch.long, device=device)  # positions, columns, slots
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), overlapping_launches(device):
            for _ in range(WARM_UP_STEPS):  # compiles the kernels, which a capture must not
                compute(self._ids, Places(*self._places))
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), overlapping_launches(device):
            self._logits = compute(self._ids, Places(*self._places))

    def replay(self, batch: DecodeBatch) -> Tensor:
        """Logits ``[size, vocabulary]``; rows beyond the batch's repeat its last one and write what it writes."""
        rows = len(batch.slots)
        missing = self.size - rows
        places = [[*row, *[row[-1]] * missing] for row in (batch.positions, batch.columns, batch.slots)]
        # A fresh pinned tensor each time: its memory is not used again before the copy has left it.
        self._places.copy_(torch.tensor(places, pin_memory=True), non_blocking=True)
        self._ids[:rows] = batch.ids
        if missing:
            self._ids[rows:] = batch.ids[-1]
        self._graph.replay()
        return self._logits
