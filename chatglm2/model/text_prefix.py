"""A prefix that says what a text says: the keys and values that the base computes for it, in front of position 0.

Prefix keys are not rotated when they are attended to, and a conversation begins at position 0. So the text is read at
positions -P … -1, and stands where an instruction before the conversation would: it works without any training. Knows
ids and the model; does not know which text is worth starting from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chatglm2.errors import PrefixError
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.model.prefix import Prefix, PrefixEncoder


@torch.no_grad()
def prefix_from_ids(model: ChatGLMForConditionalGeneration, ids: Sequence[int], origin: str = "") -> Prefix:
    """The prefix of ``len(ids)`` tokens that the model itself computes for a text; no other prefix is seen.

    Raises:
        PrefixError: for a text without tokens.
    """
    if not ids:
        raise PrefixError(
            "A prefix that starts from a text needs at least one token of it. Write a sentence that says what to do.",
            "用文本作为前缀的起点时，文本至少要有一个 token。请写一句说明任务的话。",
        )
    length = len(ids)
    read = _Reading()
    model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=torch.arange(-length, 0, device=model.device)[None],
        past_key_values=read,
        prefix=[None],
        logits_to_keep=1,
    )
    return Prefix(torch.stack(read.layers).float(), origin=origin)


class _Reading:
    """A cache that gathers each layer's keys and values of one text, ``[2, P, G, D]``."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []

    def get_seq_length(self) -> int:
        """Tokens before the text: none."""
        return 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Note ``[1, G, P, D]`` keys and values, and hand them back."""
        self.layers.append(torch.stack((key_states[0], value_states[0])).transpose(1, 2))
        return key_states, value_states


@torch.no_grad()
def start_from(encoder: PrefixEncoder, key_values: Tensor) -> None:
    """Let a trainable prefix begin as ``key_values`` ``[layers, 2, P, groups, channels]``.

    Where the prefix goes through the projection, its last layer is solved for them by least squares: exact where the
    model is as wide as the prefix is long, the nearest there is otherwise.
    """
    target = key_values.to(encoder.embedding.weight.device, torch.float32)
    flat = target.permute(2, 0, 1, 3, 4).reshape(encoder.pre_seq_len, -1)  # [P, layers * 2 * groups * channels]
    if encoder.trans is None:
        encoder.embedding.weight.copy_(flat)
        return
    inner = encoder.trans[:-1](encoder.embedding.weight)  # [P, H]
    last = encoder.trans[-1]
    assert isinstance(last, nn.Linear)
    mean = flat.mean(0)
    last.bias.copy_(mean)
    last.weight.copy_((torch.linalg.pinv(inner.double()) @ (flat - mean).double()).T.float())
