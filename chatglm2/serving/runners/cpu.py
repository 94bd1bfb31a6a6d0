"""Decoding on a CPU in fp32, where a small model's step is bound by the cost of each operation and by slow GEMV.

Knows batches; a layer's own step is `cpu_layer`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch
from chatglm2.serving.runners.cpu_layer import CpuLayer, Surroundings, normalize, product
from chatglm2.serving.runners.module import ModuleRunner

# Below this, threads wait for each other longer than they compute: on two cores one is a quarter faster than two, and
# leaves the other to a training.
SINGLE_THREAD_PARAMETERS = 50_000_000


class CpuRunner(ModuleRunner):
    """The modules for prompts, and a step of its own for decoding.

    A product with one row is no faster than with two: so one row runs as two equal ones, and a second pane is almost
    free.
    """

    def __init__(self, model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> None:
        super().__init__(model, cache)
        self._config = config = model.config
        positions = torch.arange(max_length).unsqueeze(0)
        self._rotation = model.transformer.rotary_pos_emb(positions)[0]  # [T, 1, R / 2]
        blocks = enumerate(model.transformer.encoder.blocks())
        self._layers = [CpuLayer(block, index, config, cache) for index, block in blocks]
        self._final_norm = model.transformer.encoder.final_layernorm.weight
        self._output = model.transformer.output_layer.weight
        self._scratch: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by number of rows
        if sum(parameter.numel() for parameter in model.parameters()) < SINGLE_THREAD_PARAMETERS:
            self.threads = 1

    @staticmethod
    def supports(model: ChatGLMForConditionalGeneration) -> bool:
        """Whether the step fits the model: fp32, not quantized, no extra biases."""
        plain = all(type(layer.self_attention.dense) is nn.Linear for layer in model.transformer.encoder.blocks())
        is_right = model.device.type == "cpu" and model.dtype == torch.float32
        return is_right and plain and not model.config.add_bias_linear

    def decode(self, batch: DecodeBatch) -> Tensor:
        ids, mask = batch.ids, self.point_cache(batch)
        x = self._transformer.embedding(ids.expand(2) if len(ids) == 1 else ids)  # [n, H]
        around = Surroundings(self._rotation[torch.tensor(batch.positions)], mask, *self._scratch_for(len(x)))
        for layer in self._layers:
            layer.add_to(x, around)
        return product(self._output, normalize(x, self._final_norm, around.epsilon))[: len(ids)].contiguous()

    def _scratch_for(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Epsilon, ``mixed`` and ``gated`` of `Surroundings`, taken once for each number of rows."""
        if rows not in self._scratch:
            config = self._config
            width = (config.num_attention_heads + 2 * config.multi_query_group_num) * config.kv_channels
            epsilon = torch.full((rows, 1, 1), config.layernorm_epsilon)
            self._scratch[rows] = epsilon, torch.empty(rows, width), torch.empty(rows, config.ffn_hidden_size)
        return self._scratch[rows]
