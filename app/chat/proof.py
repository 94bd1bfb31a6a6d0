"""Proof that the base answers as if there were no prefixes: its logits beside those of a model that never saw one.

Knows the model host. The other model is read from the checkpoint by itself, with the same options; where weights can be
shared it takes no memory of its own, and shared weights cannot be changed by anybody.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.chat.model_host import ModelHost

if TYPE_CHECKING:
    from torch import Tensor

    from chatglm2.model.modeling import ChatGLMForConditionalGeneration
    from chatglm2.model.prefix import Prefix

QUESTION = "你好，请介绍一下你自己。"


@dataclass(frozen=True)
class Proof:
    """What came out.

    Attributes:
        holds: every logit is the same, bit for bit.
        logits: how many were compared: one for each word of the vocabulary at each position of the prompt.
        digest: of all their bits, as the page's base gave them; the first 12 digits of a SHA-256.
        prefix_changes: whether the prefix that ran in between changed any of them in its own pass; None without one.
    """

    holds: bool
    logits: int
    digest: str
    prefix_changes: bool | None


def prove_base(host: ModelHost, prefix: Prefix | None, question: str = QUESTION) -> Proof:
    """Compares the page's model without a prefix, just after it ran with ``prefix``, with one that never had any.

    Raises:
        ChatGLMError: the model is not ready, the question does not fit, or there is no memory for the other model.
    """
    session = host.session
    ids = session.fit_prompt(question, [], 1, None).ids
    tuned = _logits(session.engine.model, ids, prefix) if prefix is not None else None
    served = _logits(session.engine.model, ids, None)
    untouched = _logits(host.load_another(), ids, None)
    return Proof(
        holds=_same_bits(served, untouched),
        logits=served.numel(),
        digest=hashlib.sha256(_bits(served)).hexdigest()[:12],
        prefix_changes=None if tuned is None else not _same_bits(served, tuned),
    )


def _logits(model: ChatGLMForConditionalGeneration, ids: list[int], prefix: Prefix | None) -> Tensor:
    """Of all positions, ``[1, length, vocabulary]``."""
    import torch  # here, since the page starts before torch is loaded

    from chatglm2.kernels.availability import computing_on

    with torch.inference_mode(), computing_on(model.device):
        logits: Tensor = model(torch.tensor([ids], device=model.device), prefix=[prefix]).logits
    return logits.cpu()


def _bits(logits: Tensor) -> bytes:
    import torch

    return logits.contiguous().view(torch.uint8).numpy().tobytes()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """-0 is another number than 0 here, and one NaN is the same as another of its bits."""
    return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
