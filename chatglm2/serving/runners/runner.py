"""Running the model over the cache: prompts in parts, and one decode step for a whole batch.

Knows the model's modules and the cache; knows no requests. `build_runner` picks the implementation; all give the same
logits as the modules (tested), and the engine computes with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from chatglm2.kernels.availability import runs_triton
from chatglm2.model.modeling import ChatGLMForConditionalGeneration, GLMBlock
from chatglm2.serving.cache import SlotCache

# Below this, threads wait for each other longer than they compute: on two cores one is a quarter faster than two, and
# leaves the other to a training.
SINGLE_THREAD_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class PromptPart:
    """Some tokens of one prompt, and where they go.

    Attributes:
        ids: the tokens.
        slot: the row's slot.
        start: text position of the first token.
        prefix_length: columns of the slot in front of the text.
    """

    ids: Sequence[int]
    slot: int
    start: int
    prefix_length: int

    @property
    def first_column(self) -> int:
        return self.prefix_length + self.start

    @property
    def end_column(self) -> int:
        return self.first_column + len(self.ids)


@dataclass(frozen=True)
class DecodeBatch:
    """One token a row, and where it goes.

    Attributes:
        ids: ``[n]``, each row's last token, on the model's device.
        slots: each row's slot.
        positions: its text position.
        columns: its column in the slot; all before it are looked at.
    """

    ids: Tensor
    slots: Sequence[int]
    positions: Sequence[int]
    columns: Sequence[int]


class Runner(Protocol):
    """Computes what comes next.

    Attributes:
        runs_ahead: whether the device works on while the host goes on, so that the next step should be started before
            the last one's tokens are read.
        threads: CPU threads that serve it best; None for torch's own choice.
        compile_seconds: what compiling took when it was built.
    """

    runs_ahead: bool
    threads: int | None
    compile_seconds: float

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        """Compute parts of prompts; logits ``[n, vocabulary]`` after the last token of each."""

    def decode(self, batch: DecodeBatch) -> Tensor:
        """Logits ``[n, vocabulary]`` after one token a row, valid until the next call."""


def build_runner(model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> Runner:
    """The fastest runner for the model's device and weights, for positions below ``max_length``."""
    if runs_triton(model.device, model.dtype):
        from chatglm2.serving.runners.graph import GraphRunner  # here, since only a GPU has what it imports

        if GraphRunner.supports(model):
            return GraphRunner(model, cache, max_length)
    plain = all(type(layer.self_attention.dense) is nn.Linear for layer in model.transformer.encoder.blocks())
    if model.device.type == "cpu" and model.dtype == torch.float32 and plain and not model.config.add_bias_linear:
        return CpuRunner(model, cache, max_length)
    return ModuleRunner(model, cache)


class ModuleRunner:
    """Runs the model's own modules: right for every device and dtype."""

    runs_ahead = False
    threads: int | None = None
    compile_seconds = 0.0

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache) -> None:
        self._transformer = model.transformer
        self._cache = cache

    def prefill(self, parts: Sequence[PromptPart]) -> Tensor:
        """As `Runner.prefill`: parts are padded on the right to the longest.

        What padding writes lies behind a row's text and is written over before anyone looks; past the slot's end it
        piles up in the last column.
        """
        device = self._transformer.output_layer.weight.device
        longest = max(len(part.ids) for part in parts)
        ids = torch.tensor([[*part.ids, *[0] * (longest - len(part.ids))] for part in parts], device=device)
        starts = torch.tensor([[part.start] for part in parts], device=device)
        in_front = torch.tensor([[part.prefix_length] for part in parts], device=device)
        positions = starts + torch.arange(longest, device=device)
        columns = (positions + in_front).clamp(max=self._cache.capacity - 1)
        seen_length = min(max(part.first_column for part in parts) + longest, self._cache.capacity)
        mask = None
        if len(parts) > 1 or device.type == "cpu":
            mask = (torch.arange(seen_length, device=device) <= columns.unsqueeze(-1)).unsqueeze(1)  # [n, 1, S, K]
        self._cache.point_at([part.slot for part in parts], columns, seen_length)
        hidden = self._transformer(ids, positions, mask, self._cache)
        last = torch.tensor([len(part.ids) - 1 for part in parts], device=device)
        return self._transformer.output_layer(hidden[torch.arange(len(parts), device=device), last])

    def decode(self, batch: DecodeBatch) -> Tensor:
        device = batch.ids.device
        mask = self._point_cache(batch)
        positions = torch.tensor(batch.positions, device=device).unsqueeze(1)
        hidden = self._transformer(batch.ids.unsqueeze(1), positions, mask, self._cache)
        return self._transformer.output_layer(hidden[:, -1])

    def _point_cache(self, batch: DecodeBatch) -> Tensor | None:
        """Point the cache at the batch's columns; the mask ``[n, 1, 1, K]`` that rows of unlike lengths need."""
        columns = torch.tensor(batch.columns, device=batch.ids.device).unsqueeze(1)
        seen_length = max(batch.columns) + 1
        self._cache.point_at(batch.slots, columns, seen_length)
        if min(batch.columns) == max(batch.columns):
            return None
        return (torch.arange(seen_length, device=columns.device) <= columns)[:, None, None]


class _Weights(NamedTuple):
    """A layer's parameters: looked up once, since a module's attributes cost as much as a small operation."""

    input_norm: Tensor
    query_key_value: Tensor
    bias: Tensor | None
    dense: Tensor
    post_norm: Tensor
    h_to_4h: Tensor
    h4_to_h: Tensor

    @classmethod
    def of(cls, block: GLMBlock) -> _Weights:
        attention, mlp = block.self_attention, block.mlp
        return cls(
            block.input_layernorm.weight,
            attention.query_key_value.weight,
            attention.query_key_value.bias,
            attention.dense.weight,
            block.post_attention_layernorm.weight,
            mlp.dense_h_to_4h.weight,
            mlp.dense_4h_to_h.weight,
        )


class _Scratch:
    """What every layer of a step writes over, for one number of rows: taking memory costs as much as using it."""

    def __init__(self, rows: int, layer: _Weights, epsilon: float) -> None:
        self.epsilon = torch.full((rows, 1, 1), epsilon)
        self.mixed = torch.empty(rows, layer.query_key_value.shape[0])
        self.gated = torch.empty(rows, layer.h4_to_h.shape[1])


class CpuRunner(ModuleRunner):
    """fp32 on a CPU, where a small model's step is bound by the cost of each operation and by slow GEMV.

    The BLAS behind torch multiplies ``weight @ x.T`` by two or more rows several times faster than ``x @ weight.T``,
    and by one row no faster than by two (`benchmarks/engine.py` measures it): so one row runs as two equal ones, and a
    second pane is almost free.
    """

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        super().__init__(model, cache)
        config = model.config
        self._heads, self._groups = config.num_attention_heads, config.multi_query_group_num
        self._channels = config.kv_channels
        positions = torch.arange(max_length).unsqueeze(0)
        self._rotation = model.transformer.rotary_pos_emb(positions)[0]  # [T, 1, R / 2]
        self._layers = [_Weights.of(block) for block in model.transformer.encoder.blocks()]
        self._final_norm = model.transformer.encoder.final_layernorm.weight
        self._output = model.transformer.output_layer.weight
        self._epsilon = config.layernorm_epsilon
        self._scratch: dict[int, _Scratch] = {}  # by number of rows
        if sum(parameter.numel() for parameter in model.parameters()) < SINGLE_THREAD_PARAMETERS:
            self.threads = 1

    def decode(self, batch: DecodeBatch) -> Tensor:
        ids, mask = batch.ids, self._point_cache(batch)
        x = self._transformer.embedding(ids.expand(2) if len(ids) == 1 else ids)  # [n, H]
        rotation = self._rotation[torch.tensor(batch.positions)]
        if len(x) not in self._scratch:
            self._scratch[len(x)] = _Scratch(len(x), self._layers[0], self._epsilon)
        scratch = self._scratch[len(x)]
        for index, layer in enumerate(self._layers):
            self._step(layer, index, x, rotation, mask, scratch)
        x = _normalize(x, self._final_norm, scratch.epsilon)
        return _product(self._output, x)[: len(ids)].contiguous()

    def _step(
        self, layer: _Weights, index: int, x: Tensor, rotation: Tensor, mask: Tensor | None, scratch: _Scratch
    ) -> None:
        """One layer, added to ``x`` in place."""
        mixed = _product(layer.query_key_value, _normalize(x, layer.input_norm, scratch.epsilon))
        if layer.bias is None:
            scratch.mixed.copy_(mixed)
        else:
            torch.add(mixed, layer.bias, out=scratch.mixed)
        x.add_(_product(layer.dense, self._attend(scratch.mixed, index, rotation, mask)))
        gate, up = _product(layer.h_to_4h, _normalize(x, layer.post_norm, scratch.epsilon)).chunk(2, dim=-1)
        torch.mul(F.silu(gate), up, out=scratch.gated)
        x.add_(_product(layer.h4_to_h, scratch.gated))

    def _attend(self, mixed: Tensor, layer_idx: int, rotation: Tensor, mask: Tensor | None) -> Tensor:
        """Context ``[n, N * D]``; where one row runs as two, both look at the one row's keys."""
        rows = len(rotation)
        heads = mixed.view(len(mixed), -1, self._channels)  # [n, N + 2G, D]
        turning = heads[:, : self._heads + self._groups, : 2 * rotation.shape[-1]]
        torch.view_as_complex(turning.unflatten(-1, (-1, 2))).mul_(rotation)
        new = heads[:rows, self._heads :].unflatten(1, (2, -1)).transpose(0, 1)  # [2, n, G, D]
        keys, values = self._cache.write(new, layer_idx)  # [n, G, K, D]
        if rows < len(heads):
            keys, values = keys.expand(2, -1, -1, -1), values.expand(2, -1, -1, -1)
        grouped = heads[:, : self._heads].unflatten(1, (self._groups, -1))
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).flatten(1)


def _normalize(x: Tensor, weight: Tensor, epsilon: Tensor) -> Tensor:
    """RMSNorm of ``[n, H]``; the mean square plus ``epsilon`` ``[n, 1, 1]`` is one product."""
    rows, width = x.shape
    squares = torch.baddbmm(epsilon, x.unsqueeze(1), x.unsqueeze(2), alpha=1 / width)
    return (x * squares.rsqrt_().view(rows, 1)).mul_(weight)


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """``x @ weight.T`` for the few rows of ``x`` ``[n, in]``; ``[n, out]``, a column behind another."""
    return torch.mm(weight, x.t()).t()
