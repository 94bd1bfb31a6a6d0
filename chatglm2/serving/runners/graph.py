"""Running the model on a GPU: one CUDA graph a decode step, and Triton kernels between the projections.

Knows the model's modules, the cache's tensors and CUDA graphs. Knows no requests. A graph replays with new ids,
positions, columns and slots, which lie in fixed buffers, so all that the host launches of a step is one graph. Prompts
are computed without padding: the tokens of all parts behind one another, and attention part by part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from chatglm2.kernels.availability import runs_triton
from chatglm2.kernels.launching import overlapping_launches
from chatglm2.kernels.layer.decoding import LARGEST_GEMV_BATCH, add_norm, decode_attention, gate, gemv, rotate_and_store
from chatglm2.model.attention import attend
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch, PromptPart

WARM_UP_STEPS = 2
# Prompts of these lengths between them use every kernel that a prompt may: none is left to compile for the first one.
WARM_UP_PROMPTS = (5, 12, 40, 100)

# From a layer's queries, keys and values to the context of its tokens, ``[tokens, N * D]``.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class GraphRunner:
    """Replays captured decode steps; captures one for 1, 2, 4, … rows when it is built."""

    runs_ahead = True
    threads: int | None = None

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        started = time.perf_counter()
        self._transformer = model.transformer
        self._device = model.device
        self._cache = cache
        positions = torch.arange(max_length, device=model.device).unsqueeze(0)
        rotation = model.transformer.rotary_pos_emb(positions)[0, :, 0]  # [T, R / 2]
        self._rotation = torch.view_as_real(rotation).contiguous()
        sizes = [1]
        while sizes[-1] < cache.slots:
            sizes.append(sizes[-1] * 2)
        for length in WARM_UP_PROMPTS:
            if length <= cache.capacity:
                self.prefill([PromptPart([0] * length, slot=0, start=0, prefix_length=0)])
        self._steps = [_CapturedStep(self.compute_step, size, model.device) for size in sizes]
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
        places: list[list[int]] = [[], [], [], []]
        for part in parts:
            length = len(part.ids)
            places[0] += part.ids
            places[1] += range(part.start, part.start + length)
            places[2] += range(part.first_column, part.end_column)
            places[3] += [part.slot] * length
        lengths = [len(part.ids) for part in parts]

        def attend_parts(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            contexts = []
            for part, own in zip(parts, query.split(lengths), strict=True):
                seen = (slice(part.slot, part.slot + 1), slice(0, part.end_column))
                context = attend(
                    own.transpose(0, 1)[None], keys[seen].transpose(1, 2), values[seen].transpose(1, 2), None
                )
                contexts.append(context[0].transpose(0, 1).flatten(1))
            return torch.cat(contexts) if len(contexts) > 1 else contexts[0]

        ids, positions, columns, slots = torch.tensor(places).to(self._device, non_blocking=True).unbind()
        hidden = self._compute(ids, positions, columns, slots, attend_parts)
        ends = torch.tensor(lengths).cumsum(0) - 1
        return _project(self._transformer.output_layer, hidden[ends.to(self._device, non_blocking=True)])

    def compute_step(self, ids: Tensor, positions: Tensor, columns: Tensor, slots: Tensor) -> Tensor:
        """A decode step: logits ``[n, vocabulary]``; all else ``[n]``."""

        def attend_slots(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return decode_attention(query, keys, values, columns, slots)

        hidden = self._compute(ids, positions, columns, slots, attend_slots)
        return _project(self._transformer.output_layer, hidden)

    def _compute(self, ids: Tensor, positions: Tensor, columns: Tensor, slots: Tensor, attention: Attention) -> Tensor:
        """Hidden states ``[tokens, H]`` after the final norm; all else ``[tokens]``."""
        transformer, cache = self._transformer, self._cache
        x = transformer.embedding(ids)
        delta: Tensor | None = None  # what the layer before adds to x; the next norm does so in passing
        for index, block in enumerate(transformer.encoder.blocks()):
            keys, values = cache.keys[index], cache.values[index]
            norm = block.input_layernorm
            mixed = _project(block.self_attention.query_key_value, add_norm(x, delta, norm.weight, norm.eps))
            query = rotate_and_store(mixed, self._rotation, positions, columns, slots, keys, values)
            delta = _project(block.self_attention.dense, attention(query, keys, values))
            norm = block.post_attention_layernorm
            mixed = _project(block.mlp.dense_h_to_4h, add_norm(x, delta, norm.weight, norm.eps))
            delta = _project(block.mlp.dense_4h_to_h, gate(mixed))
        norm = transformer.encoder.final_layernorm
        return add_norm(x, delta, norm.weight, norm.eps)


def _project(linear: nn.Module, x: Tensor) -> Tensor:
    """``linear(x)`` for ``[n, in]``; for few rows our own product reads a dense weight faster than cuBLAS."""
    if type(linear) is nn.Linear and x.shape[0] <= LARGEST_GEMV_BATCH:
        return gemv(x, linear.weight, linear.bias)
    return linear(x)


class _CapturedStep:
    """A decode step for ``size`` rows as a CUDA graph, and its buffers."""

    def __init__(
        self, compute: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], size: int, device: torch.device
    ) -> None:
        self.size = size
        self._ids = torch.zeros(size, dtype=torch.long, device=device)
        self._places = torch.zeros(3, size, dtype=torch.long, device=device)  # positions, columns, slots
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), overlapping_launches(device):
            for _ in range(WARM_UP_STEPS):  # compiles the kernels, which a capture must not
                compute(self._ids, *self._places)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), overlapping_launches(device):
            self._logits = compute(self._ids, *self._places)

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
