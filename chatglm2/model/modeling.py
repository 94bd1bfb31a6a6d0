"""ChatGLM2: a decoder with RMSNorm, half-rotated interleaved RoPE, multi-query attention and SwiGLU.

Module names are the checkpoint's tensor names, so its state dict loads as it is. Knows how to attend to a prefix and to
a cache that answers ``update(key, value, layer)``; does not know where weights, prefixes or requests come from.

Shapes: B batch, S new tokens, K keys in the cache and new, P prefix tokens, H hidden, N query heads, G key/value
groups, D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import ModelCallError
from chatglm2.kernels.layer.choice import find_layer_kernels
from chatglm2.model.attention import attend, build_attention_mask, count_positions
from chatglm2.model.head_loss import cross_entropy, divergence
from chatglm2.model.prefix import OWN_PREFIX, Prefix, PrefixEncoder, stack_prefixes
from chatglm2.model.quantization import quantize_model, replace_linears
from chatglm2.model.recomputing import recompute
from chatglm2.model.rotary import RotaryEmbedding, rotate

IGNORED_LABEL = -100


class KeyValueCache(Protocol):
    """What attention asks of a cache; transformers' ``DynamicCache`` and the engine's slots both have it."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store ``[B, G, S, D]`` keys and values, return all that a query may look at, ``[B, G, K, D]``."""


class RMSNorm(nn.Module):
    """Root-mean-square norm whose weight is multiplied in fp32, before the cast back (the original's order)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and self.weight.dtype == x.dtype:  # torch's kernel there computes in fp32 and rounds once (tested)
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def _refuse(**asked: bool | None) -> None:
    """Say what to use instead of what this model does not hand out or take.

    Raises:
        ModelCallError: for the first that is asked for.
    """
    instead = {
        "inputs_embeds": (
            "pass input_ids; to learn vectors in front of the text, use a prefix",
            "请传入 input_ids；若要在文本之前学习向量，请使用前缀",
        ),
        "output_attentions": ("fused attention never holds them", "融合的注意力计算不会保留注意力权重"),
        "output_hidden_states": (
            "register a forward hook on model.transformer.encoder.layers[i]",
            "请在 model.transformer.encoder.layers[i] 上注册 forward hook",
        ),
    }
    for name, wanted in asked.items():
        if wanted:
            en, zh = instead[name]
            raise ModelCallError(f"{name} is not supported: {en}.", f"不支持 {name}：{zh}。")


def pick(hidden: Tensor, wanted: Tensor | None) -> Tensor:
    """The tokens ``wanted`` ``[n]`` of ``hidden`` ``[B, S, H]``, counted through all rows, as ``[n, H]``; None: all."""
    return hidden if wanted is None else hidden.flatten(0, 1).index_select(0, wanted)


class SelfAttention(nn.Module):
    """Multi-query attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.groups = config.multi_query_group_num
        self.channels = config.kv_channels
        self.query_key_value = nn.Linear(
            config.hidden_size,
            (self.heads + 2 * self.groups) * self.channels,
            bias=config.add_bias_linear or config.add_qkv_bias,
        )
        self.dense = nn.Linear(self.heads * self.channels, config.hidden_size, bias=config.add_bias_linear)

    def forward(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        prefix: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        batch, length, _ = hidden.shape
        mixed = self.query_key_value(hidden).view(batch, length, -1, self.channels)  # [B, S, N + 2G, D]
        if cache is None and (fused := find_layer_kernels(mixed)):
            query, key, value = fused.rotate_and_join(mixed, rotation, prefix, self.groups)
            return self.dense(pick(attend(query, key, value, mask).transpose(1, 2).flatten(2), wanted))
        turning, value = mixed.split((self.heads + self.groups, self.groups), dim=2)
        query, key = rotate(turning, rotation).transpose(1, 2).split((self.heads, self.groups), dim=1)
        value = value.transpose(1, 2)  # [B, G, S, D]
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if prefix is not None:  # [2, B, G, P, D]
            key = torch.cat((prefix[0], key), dim=2)
            value = torch.cat((prefix[1], value), dim=2)
        context = attend(query, key, value, mask)
        return self.dense(pick(context.transpose(1, 2).flatten(2), wanted))


def gate(mixed: Tensor) -> Tensor:
    """SwiGLU between the projections: ``silu(first half) * second half`` of ``[…, 2F]``."""
    if fused := find_layer_kernels(mixed):
        return fused.gate(mixed)
    first, second = mixed.chunk(2, dim=-1)
    return F.silu(first) * second


def gate_gradient(mixed: Tensor, gradient: Tensor) -> Tensor:
    """The gradient for `gate`'s ``mixed``, which it may overwrite."""
    if fused := find_layer_kernels(mixed):
        return fused.gate_gradient_(mixed, gradient)
    with torch.enable_grad():
        mixed = mixed.requires_grad_()
        return torch.autograd.grad(gate(mixed), mixed, gradient)[0]


class MLP(nn.Module):
    """SwiGLU; the first half of the fused projection is the gate."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        bias = config.add_bias_linear
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=bias)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(gate(self.dense_h_to_4h(hidden)))


class GLMBlock(GradientCheckpointingLayer):
    """One pre-norm layer; with gradient checkpointing, a frozen one is recomputed in a cheaper way than others."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = SelfAttention(config, layer_idx)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        prefix: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """``[B, S, H]``, or of the ``wanted`` tokens alone (see `pick`), ``[n, H]``."""
        hidden = self._attended(hidden, rotation, mask, cache, prefix, wanted)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def __call__(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: Any,
        prefix: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Any:
        recomputes = self.gradient_checkpointing and self.training and cache is None
        if not recomputes or any(parameter.requires_grad for parameter in self.parameters()):
            return super().__call__(hidden, rotation, mask, cache, prefix, wanted)
        arguments = hidden, rotation, mask, prefix, wanted
        hidden, gated = recompute(self._before_gate, gate, gate_gradient, arguments)
        return hidden + self.mlp.dense_4h_to_h(gated)

    def _before_gate(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        prefix: Tensor | None,
        wanted: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        hidden = self._attended(hidden, rotation, mask, None, prefix, wanted)
        return hidden, self.mlp.dense_h_to_4h(self.post_attention_layernorm(hidden))

    def _attended(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        prefix: Tensor | None,
        wanted: Tensor | None,
    ) -> Tensor:
        """The residual between attention and MLP."""
        attended = self.self_attention(self.input_layernorm(hidden), rotation, mask, cache, prefix, wanted)
        return pick(hidden, wanted) + attended


class Embedding(nn.Module):
    """Holds ``word_embeddings`` where the checkpoint has it."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.word_embeddings(input_ids)


class GLMTransformer(nn.Module):
    """The stack of layers and the final norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GLMBlock(config, index) for index in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)

    def blocks(self) -> Iterator[GLMBlock]:
        """The layers, typed."""
        for layer in self.layers:
            assert isinstance(layer, GLMBlock)
            yield layer

    def forward(
        self,
        hidden: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        prefix: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        # Taken apart at once: the gradient of each part alone would be as large as all of them.
        prefixes = [None] * len(self.layers) if prefix is None else prefix.unbind()
        for index, (layer, part) in enumerate(zip(self.layers, prefixes, strict=True), start=1):
            # The other tokens have done their part once the last layer has their keys and values.
            hidden = layer(hidden, rotation, mask, cache, part, wanted if index == len(self.layers) else None)
        return self.final_layernorm(hidden)


class ChatGLMModel(nn.Module):
    """Embedding, layers and output head, as the checkpoint groups them under ``transformer.``."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        self.rotary_pos_emb = RotaryEmbedding(config)
        self.encoder = GLMTransformer(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.prefix_encoder: PrefixEncoder | None = PrefixEncoder(config) if config.pre_seq_len else None

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        prefix: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm: ``[B, S, H]``, or ``[n, H]`` of the ``wanted`` tokens.

        Args:
            input_ids: ``[B, S]``.
            position_ids: ``[B, S]``, counted from 0 at the first text token.
            mask: boolean ``[B or 1, 1, S, P + K]``, true where a query may look; see `attend` for its absence.
            cache: where keys and values go and come from.
            prefix: ``[layers, 2, B, G, P, D]``, put in front of the keys and values of every layer.
            wanted: ``[n]``, tokens counted through all rows; the last layer computes no others.
        """
        hidden = self.embedding(input_ids)
        return self.encoder(hidden, self.rotary_pos_emb(position_ids), mask, cache, prefix, wanted)


class ChatGLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """ChatGLM2 with its language-model head; ``generate()``, training and P-Tuning v2 work on it."""

    config: ChatGLMConfig
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012 - the base class declares it so
    _supports_sdpa = True

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self._freeze_around_prefix()
        if config.quantization_bit:  # the checkpoint holds packed weights: their places must be there before they come
            replace_linears(self, config.quantization_bit, config.quantization_group_size)
        self.shared_weights: Any = None  # what other processes may map, offered for as long as the model lives
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """transformers' own; loading makes parameters anew, which learn until they are told otherwise."""
        loaded = super().from_pretrained(*arguments, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_around_prefix()
        return loaded

    def _freeze_around_prefix(self) -> None:
        """Let only the prefix learn where the config asks for one, as the original does."""
        encoder = self.transformer.prefix_encoder
        if encoder is not None:
            self.requires_grad_(False)
            encoder.requires_grad_(True)

    def _init_weights(self, module: nn.Module) -> None:
        # Reached only by models built from a bare config and by a prefix that the checkpoint does not have.
        # transformers asks for each module that has weights of its own, so a prefix's are drawn one by one.
        if isinstance(module, nn.Linear | nn.Embedding) and self._is_in_prefix_encoder(module):
            module.reset_parameters()  # N(0, 1), and torch's default for a projection, as in the original
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def _is_in_prefix_encoder(self, module: nn.Module) -> bool:
        encoder = self.transformer.prefix_encoder
        return encoder is not None and any(module is part for part in encoder.modules())

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.embedding.word_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.transformer.output_layer

    def prepare_prefix_tuning(self, pre_seq_len: int, prefix_projection: bool = False) -> PrefixEncoder:
        """Freeze every weight and add a trainable prefix, N(0, 1) in fp32.

        Draws from torch's global generator: seed it first to repeat a run.
        """
        self.requires_grad_(False)
        self.config.pre_seq_len = pre_seq_len
        self.config.prefix_projection = prefix_projection
        encoder = PrefixEncoder(self.config).to(self.device)
        self.transformer.prefix_encoder = encoder
        return encoder

    @property
    def rotary_angles(self) -> str:
        """In which precision rotary angles are computed: "float32", or the weights' where the original is repeated."""
        return str(self.transformer.rotary_pos_emb.dtype).removeprefix("torch.")

    @torch.no_grad()
    def own_prefix(self) -> Prefix | None:
        """The prefix inside the model as it is now, without dropout; None where it has none."""
        encoder = self.transformer.prefix_encoder
        if encoder is None:
            return None
        return Prefix(encoder.key_values().clone(), origin=OWN_PREFIX.origin, projection=encoder.trans is not None)

    def quantize(self, bits: int, group_size: int | None = None) -> Self:
        """Quantize the layers in place and return the model; see `chatglm2.model.quantization.quantize_model`.

        0 bits leave it as it is, and return it too.
        """
        return quantize_model(self, bits, group_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,  # transformers takes an argument with "label" in its name for labels
        past_key_values: Any | None = None,
        use_cache: bool | None = None,
        prefix: Prefix | Sequence[Prefix | None] | None = None,
        logits_to_keep: int = 0,
        base_hidden: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Next-token logits, or the training loss.

        Args:
            input_ids: ``[B, S]`` new tokens.
            attention_mask: ``[B, cached + S]``, 1 for text and 0 for padding, prefix not counted; all text if absent.
            position_ids: ``[B, S]``; counted over the text of ``attention_mask`` if absent.
            labels: ``[B, S]``, -100 where there is nothing to learn. The loss is the mean cross-entropy of the next
                token; only label positions go through the head and the end of the last layer, so ``logits`` is None.
            loss_weights: ``[B]``, how much each label of a row counts: the loss is the sum of the weighted
                cross-entropies instead of their mean.
            past_key_values: a transformers cache.
            prefix: a prefix for all rows, or one (or None) for each. Without it, the model's own trainable prefix.
            logits_to_keep: compute logits of that many last positions only; 0 for all.
            base_hidden: ``[B, S, H]``, what `final_hidden` says of these tokens without a prefix. The loss is then the
                divergence from what the base says next, at the label positions, instead of the cross-entropy.

        Raises:
            ModelCallError: for ``inputs_embeds``, ``output_attentions`` or ``output_hidden_states``.
        """
        del return_dict  # always a ModelOutput
        _refuse(
            inputs_embeds=inputs_embeds is not None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        batch, length = input_ids.shape
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        key_values, prefix_mask = self._batch_prefix(prefix, batch)
        if position_ids is None:
            position_ids = count_positions(attention_mask, batch, length, past, input_ids.device)
        prefix_length = key_values.shape[4] if key_values is not None else 0
        mask = build_attention_mask(attention_mask, length, past, prefix_length, prefix_mask, input_ids.device)
        wanted = None
        if labels is not None:  # before the layers: a GPU would have to end them first
            rows, columns = (labels[:, 1:] != IGNORED_LABEL).nonzero(as_tuple=True)
            wanted = rows * length + columns
        hidden = self.transformer(input_ids, position_ids, mask, past_key_values, key_values, wanted)
        if labels is not None:
            weights = None if loss_weights is None else loss_weights[rows]
            head = self.transformer.output_layer
            if base_hidden is not None:
                loss = divergence(hidden, head, base_hidden[rows, columns].to(hidden.dtype), weights)
            else:
                loss = cross_entropy(hidden, head, labels[rows, columns + 1], weights)
            return CausalLMOutputWithPast(loss=loss, past_key_values=past_key_values)
        logits = self.transformer.output_layer(hidden[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    @torch.no_grad()
    def final_hidden(self, input_ids: Tensor) -> Tensor:
        """What the base, without any prefix, hands to its head: ``[B, S, H]`` of texts that are padded on the right."""
        batch, length = input_ids.shape
        positions = count_positions(None, batch, length, 0, input_ids.device)
        mask = build_attention_mask(None, length, 0, 0, None, input_ids.device)
        hidden: Tensor = self.transformer(input_ids, positions, mask)
        return hidden

    def _batch_prefix(
        self, prefix: Prefix | Sequence[Prefix | None] | None, batch: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Key/values ``[layers, 2, B, G, P, D]`` and which of them each row may see; see `stack_prefixes`."""
        if prefix is None:
            encoder = self.transformer.prefix_encoder
            if encoder is None:
                return None, None
            return encoder(batch, self.dtype), None
        return stack_prefixes(prefix, batch, self.device, self.dtype)
