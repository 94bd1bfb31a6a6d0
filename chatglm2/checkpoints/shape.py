"""What a ``config.json`` may say: numbers that a model can be built from, checked before one is.

Knows keys and their ranges. Knows no weights: whether they have that shape is checked against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatglm2.errors import CheckpointError

# Far beyond any such model; a module for each of a million layers would take minutes before anything is compared.
_Layers = Annotated[int, Field(ge=1, le=1000)]
_Heads = Annotated[int, Field(ge=1, le=4096)]
_Width = Annotated[int, Field(ge=1, le=2**20)]


class ConfigShape(BaseModel):
    """The numbers of a ``config.json`` that decide what is built; keys that are absent have the model's defaults."""

    model_config = ConfigDict(strict=True, extra="ignore")

    multi_query_group_num: _Heads
    num_layers: _Layers = 28
    hidden_size: _Width = 4096
    ffn_hidden_size: _Width = 13696
    num_attention_heads: _Heads = 32
    kv_channels: Annotated[int, Field(ge=4, le=4096, multiple_of=4)] = 128  # rotated in pairs, one half of them
    multi_query_attention: bool = True
    padded_vocab_size: Annotated[int, Field(ge=1, le=2**24)] = 65024
    seq_length: Annotated[int, Field(ge=2, le=2**24)] = 32768
    layernorm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rope_ratio: Annotated[float, Field(gt=0, le=2**20)] = 1.0
    quantization_bit: Literal[0, 4, 8] | None = 0
    quantization_group_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    pre_seq_len: Annotated[int, Field(ge=0, le=2**16)] | None = None

    @model_validator(mode="after")
    def _divide_heads(self) -> Self:
        if self.multi_query_attention and self.num_attention_heads % self.multi_query_group_num:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of multi_query_group_num "
                f"({self.multi_query_group_num})"
            )
        return self


def check_shape(content: dict[str, Any], file: Path) -> None:
    """Refuse a ``config.json`` that no model can be built from.

    Raises:
        CheckpointError: naming the first key that is wrong.
    """
    try:
        ConfigShape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"][:1]))
        found = f", found {content.get(key)!r:.60}" if key else ""
        where = f"{key}: " if key else ""
        raise CheckpointError(
            f"{file} is damaged or of another model: {where}{first['msg']}{found}. Copy it from the checkpoint again.",
            f"{file} 已损坏，或不属于这种模型：{where}{first['msg']}{found}。请从检查点重新复制该文件。",
        ) from error
