"""A prefix that says what a text says: the keys and values that the base computes for it, in front of position 0.

Prefix keys are not rotated when they are attended to, and a conversation begins at position 0. So the text is read at
positions -P … -1, and stands where an instruction before the conversation would: it works without any training. Knows
ids and the model; does not know which text is worth starting from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

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
    cache = DynamicCache()
    model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=torch.arange(-length, 0, device=model.device)[None],
        past_key_values=cache,
        prefix=[None],
        logits_to_keep=1,
    )
    layers = [torch.stack((layer.keys[0], layer.values[0])) for layer in cache.layers]  # [2, G, P, D] each
    return Prefix(torch.stack(layers).transpose(2, 3).float(), origin=origin)


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
    first, between, last = encoder.trans
    inner = between(first(encoder.embedding.weight))  # [P, H]
    mean = flat.mean(0)
    last.bias.copy_(mean)
    last.weight.copy_((torch.linalg.pinv(inner.double()) @ (flat - mean).double()).T.float())
