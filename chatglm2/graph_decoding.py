"""Decoding on a GPU: one CUDA graph a batch size, with Triton kernels between the projections.

Knows the model's modules, the cache's tensors and CUDA graphs. Knows no requests. A graph replays with new ids,
positions, columns and slots, which lie in fixed buffers, so all that the host launches of a step is one graph.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from chatglm2.cache import SlotCache
from chatglm2.decoding import DecodeBatch
from chatglm2.kernels.decode_triton import add_norm, decode_attention, gate, rotate_and_store
from chatglm2.modeling import ChatGLMForConditionalGeneration

WARM_UP_STEPS = 2


class GraphDecoder:
    """Replays a captured step; captures one for 1, 2, 4, … rows when it is built.

    Attributes:
        compile_seconds: what building took, kernels and graphs together.
    """

    runs_ahead = True

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        started = time.perf_counter()
        self._model = model
        self._cache = cache
        positions = torch.arange(max_length, device=model.device).unsqueeze(0)
        rotation = model.transformer.rotary_pos_emb(positions)[0, :, 0]  # [T, R / 2]
        self._rotation = torch.view_as_real(rotation).contiguous()
        sizes = [1]
        while sizes[-1] < cache.slots:
            sizes.append(sizes[-1] * 2)
        self._steps = [_CapturedStep(self, size) for size in sizes]
        self.compile_seconds = time.perf_counter() - started

    @staticmethod
    def supports(model: ChatGLMForConditionalGeneration) -> bool:
        """Whether the kernels fit the model: half precision, and channels that are a power of two."""
        channels = model.config.kv_channels
        is_half = model.dtype in (torch.float16, torch.bfloat16)
        return is_half and channels >= 16 and channels & (channels - 1) == 0

    def __call__(self, batch: DecodeBatch) -> Tensor:
        rows = len(batch.slots)
        step = next(step for step in self._steps if step.size >= rows)
        return step.replay(batch)[:rows]

    def compute(self, ids: Tensor, positions: Tensor, columns: Tensor, slots: Tensor) -> Tensor:
        """The step itself: logits ``[n, vocabulary]``, everything else ``[n]``."""
        transformer, cache = self._model.transformer, self._cache
        x = transformer.embedding(ids)
        delta: Tensor | None = None
        for index, block in enumerate(transformer.encoder.blocks()):
            attention, mlp = block.self_attention, block.mlp
            normalized = add_norm(x, delta, block.input_layernorm.weight, block.input_layernorm.eps)
            keys, values = cache.keys[index], cache.values[index]
            mixed = attention.query_key_value(normalized)
            query = rotate_and_store(mixed, self._rotation, positions, columns, slots, keys, values)
            delta = attention.dense(decode_attention(query, keys, values, columns, slots))
            norm = block.post_attention_layernorm
            delta = mlp.dense_4h_to_h(gate(mlp.dense_h_to_4h(add_norm(x, delta, norm.weight, norm.eps))))
        norm = transformer.encoder.final_layernorm
        return transformer.output_layer(add_norm(x, delta, norm.weight, norm.eps))


class _CapturedStep:
    """A decode step for ``size`` rows as a CUDA graph, and its buffers."""

    def __init__(self, decoder: GraphDecoder, size: int) -> None:
        device = decoder._model.device
        self.size = size
        self._ids = torch.zeros(size, dtype=torch.long, device=device)
        self._places = torch.zeros(3, size, dtype=torch.long, device=device)  # positions, columns, slots
        self._host_places = torch.zeros(3, size, dtype=torch.long, pin_memory=True)
        self._copied = torch.cuda.Event()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):  # compiles the kernels, which a capture must not
                decoder.compute(self._ids, *self._places)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = decoder.compute(self._ids, *self._places)

    def replay(self, batch: DecodeBatch) -> Tensor:
        """Logits ``[size, vocabulary]``; rows beyond the batch's repeat its last one and write what it writes."""
        missing = self.size - len(batch.slots)
        places = [[*row, *[row[-1]] * missing] for row in (batch.positions, batch.columns, batch.slots)]
        self._copied.synchronize()  # the last copy has left the pinned buffer
        self._host_places.copy_(torch.tensor(places))
        self._places.copy_(self._host_places, non_blocking=True)
        self._copied.record()
        self._ids[: len(batch.slots)] = batch.ids
        if missing:
            self._ids[len(batch.slots) :] = batch.ids[-1]
        self._graph.replay()
        return self._logits
