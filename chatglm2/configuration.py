"""ChatGLM2's configuration: the keys of the checkpoint's own ``config.json``.

Knows names and defaults, and which standard transformers name each key answers to. Knows no tensors.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

ROPE_PRECISIONS = ("fp32", "reference")


class ChatGLMConfig(PreTrainedConfig):
    """Shape and options of a ChatGLM2 model.

    The defaults are ChatGLM2-6B's. Keys that the original carries but that change nothing on today's torch
    (``apply_query_key_layer_scaling``, ``bias_dropout_fusion``, …) are kept, so that a saved ``config.json`` can be
    read by the original code.

    ``quantization_group_size`` is ours: columns that share a scale where weights are quantized, None for whole rows.

    ``rope_precision`` is ours: ``"fp32"`` computes rotary angles in fp32; ``"reference"`` repeats the original, which
    computes them in the checkpoint's dtype and is off by 0.4 rad at position 1000 in fp16.
    """

    model_type = "chatglm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "vocab_size": "padded_vocab_size",
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "intermediate_size": "ffn_hidden_size",
        "max_position_embeddings": "seq_length",
    }

    num_layers: int = 28
    hidden_size: int = 4096
    ffn_hidden_size: int = 13696
    num_attention_heads: int = 32
    kv_channels: int = 128
    multi_query_attention: bool = True
    multi_query_group_num: int = 2
    padded_vocab_size: int = 65024
    seq_length: int = 32768
    add_qkv_bias: bool = True
    add_bias_linear: bool = False
    layernorm_epsilon: float = 1e-5
    rmsnorm: bool = True
    post_layer_norm: bool = True
    apply_residual_connection_post_layernorm: bool = False
    apply_query_key_layer_scaling: bool = True
    attention_softmax_in_fp32: bool = True
    fp32_residual_connection: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    bias_dropout_fusion: bool = True
    original_rope: bool = True
    rope_ratio: float = 1.0
    rope_precision: str = "fp32"
    use_cache: bool = True
    tie_word_embeddings: bool = False
    eos_token_id: int | None = 2
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    quantization_bit: int = 0
    quantization_group_size: int | None = None
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.multi_query_attention:
            self.multi_query_group_num = self.num_attention_heads
        if self.rope_precision not in ROPE_PRECISIONS:
            raise ValueError(f"rope_precision must be one of {ROPE_PRECISIONS}, found {self.rope_precision!r}")

    @property
    def prefix_width(self) -> int:
        """Values a prefix token holds: layers x (key, value) x groups x channels."""
        return self.num_layers * 2 * self.multi_query_group_num * self.kv_channels
