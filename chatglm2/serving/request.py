"""What is asked of the engine and whether it can be answered, and how busy the engine says it is.

Knows ids, prefixes and sampling; computes nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import PromptError, RequestError
from chatglm2.model.prefix import OWN_PREFIX, Prefix
from chatglm2.sampling import SEED, SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """What to continue, and how.

    Attributes:
        prompt_ids: token ids, special tokens included.
        prefix: what the row attends to in front of its text, or None for the base model; if not given, the prefix
            inside the model, which most have none of. `Prefix.at` gives it a strength, `blend_prefixes` puts several
            side by side.
        sampling: how tokens are chosen.
        seed: of the row's own random numbers; the same seed gives the same reply, whoever shares the batch. A whole
            number from 0 to 2**64 - 1.

    Raises:
        RequestError: an id or the seed is not such a number.
    """

    prompt_ids: Sequence[int]
    prefix: Prefix | None = OWN_PREFIX
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0

    def __post_init__(self) -> None:
        SEED.require("seed", self.seed)
        object.__setattr__(self, "seed", int(self.seed))
        try:
            object.__setattr__(self, "prompt_ids", tuple(map(operator.index, self.prompt_ids)))
        except TypeError as error:
            raise RequestError(
                f"A prompt must be a list of token ids, which are whole numbers: {error}. Encode the text first.",
                f"提示应为由整数 token id 组成的列表：{error}。请先用分词器编码文本。",
            ) from error

    @property
    def prefix_length(self) -> int:
        """Prefix tokens in front of the text; 0 for the base model."""
        return self.prefix.length if self.prefix is not None else 0

    @property
    def prefix_hash(self) -> str | None:
        """What tells one prefix, at its strength, from another; None for the base model, which strength 0 is."""
        return self.prefix.identity if self.prefix is not None and self.prefix.length else None

    def check(self, config: ChatGLMConfig, limit: int) -> None:
        """Refuse what a model of ``config`` cannot answer in ``limit`` tokens, prompt and reply together.

        Raises:
            PromptError: the prompt is empty, leaves no room for a reply, or holds ids that the model does not have.
            RequestError: the prefix is of another shape than the model's, or leaves no room for a prompt.
        """
        check_prefix(self.prefix, config, limit)
        check_length(len(self.prompt_ids), limit)
        most = config.padded_vocab_size
        stray = next((index for index in self.prompt_ids if not 0 <= index < most), None)
        if stray is not None:
            raise PromptError(
                f"The prompt holds the token id {stray}; the model's ids go from 0 to {most - 1}. Use the tokenizer of "
                "the model's own checkpoint.",
                f"提示里有 token id {stray}，而模型的 id 只从 0 到 {most - 1}。请使用该模型检查点自带的分词器。",
            )


def check_length(length: int, limit: int) -> None:
    """Refuse a prompt of ``length`` tokens that cannot be answered in ``limit``, its reply included.

    Raises:
        PromptError: it is empty, or leaves no room for a reply.
    """
    if length == 0:
        raise PromptError("The prompt is empty. Type something first.", "输入是空的，请先输入内容。")
    if length >= limit:
        raise PromptError(
            f"The prompt has {length:,} tokens; at most {limit - 1:,} fit, with room for a reply. "
            "Shorten it, or start with a larger --max-length.",
            f"输入有 {length:,} 个 token，最多只能容纳 {limit - 1:,} 个（还要给回复留出位置）。"
            "请缩短输入，或用更大的 --max-length 启动。",
        )


def check_prefix(prefix: Prefix | None, config: ChatGLMConfig, limit: int) -> None:
    """Refuse a prefix that a model of ``config`` cannot have in front of ``limit`` tokens.

    Raises:
        RequestError: it is of another shape than the model's, or ``limit`` is no room for a prompt.
    """
    if prefix is None:
        return
    found = tuple(prefix.key_values.shape)
    length = found[2] if len(found) == 5 else 0
    expected = (config.num_layers, 2, length, config.multi_query_group_num, config.kv_channels)
    if found != expected or not prefix.key_values.is_floating_point():
        kind = str(prefix.key_values.dtype).removeprefix("torch.")
        shape = f"[{expected[0]}, 2, P, {expected[3]}, {expected[4]}]"
        raise RequestError(
            f"A prefix of this model holds floating-point numbers of shape {shape}, with P its tokens; found {kind} of "
            f"shape {list(found)}. Choose a checkpoint that was trained on this model.",
            f"此模型的前缀应为浮点数，形状 {shape}（P 为前缀 token 数）；实际为 {kind}，形状 {list(found)}。"
            "请选择在此模型上训练的检查点。",
        )
    if limit < 2:
        raise RequestError(
            f"The prefix has {length:,} tokens and leaves no room for a prompt. Use a shorter one, or start with a "
            "larger --max-length.",
            f"前缀有 {length:,} 个 token，没有给提示留下位置。请使用更短的前缀，或用更大的 --max-length 启动。",
        )


@dataclass(frozen=True)
class EngineStats:
    """How busy the engine is.

    Attributes:
        active: requests that hold a slot.
        waiting: requests that wait for one.
        slots: how many there are.
        max_length: tokens of prompt and reply together that one holds.
        reused_tokens: prompt tokens so far that were found in a slot and not computed again.
    """

    active: int
    waiting: int
    slots: int
    max_length: int
    reused_tokens: int
