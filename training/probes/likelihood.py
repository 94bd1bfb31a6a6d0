"""How likely given tokens are after given prompts, and how far what a prefix says is from what the base says.

Knows ids, one prefix at a time, and how many rows fit into a pass. Knows no question and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm2 import ChatGLMForConditionalGeneration, Prefix
from training.data.batching import PaddingCollator
from training.data.encoding import IGNORED_LABEL, EncodedExample

# Logits of all that is asked of a row are there at once.
ROWS_AT_ONCE = 8
OnPass = Callable[[], None]


@dataclass(frozen=True)
class Continuation:
    """Ids of a prompt, and of what is said after it."""

    prompt: list[int]
    said: list[int]


@torch.inference_mode()
def next_log_shares(
    model: ChatGLMForConditionalGeneration,
    prompts: Sequence[list[int]],
    prefix: Prefix | None,
    on_pass: OnPass = lambda: None,
) -> Iterator[tuple[int, Tensor]]:
    """The log-probability ``[V]`` of every next token, in fp32 on the CPU, after each of ``prompts``; places come in
    the order in which they are computed. ``on_pass`` is called after each pass.
    """
    for places in _passes([len(prompt) for prompt in prompts]):
        logits = _last_logits(model, [prompts[place] for place in places], 1, prefix)
        yield from zip(places, logits[:, 0].log_softmax(-1).cpu(), strict=True)
        on_pass()


@torch.inference_mode()
def log_likelihoods(
    model: ChatGLMForConditionalGeneration,
    rows: Sequence[Continuation],
    prefix: Prefix | None,
    on_pass: OnPass = lambda: None,
) -> list[float]:
    """The log-likelihood in nats, summed over its tokens, of what is said in each of ``rows``; 0 for nothing said."""
    found = [0.0] * len(rows)
    for places in _passes([len(row.prompt) + len(row.said) for row in rows]):
        chosen = [rows[place] for place in places]
        longest = max(len(row.said) for row in chosen)
        if longest:
            # The last token is said by the one before it, and asks for nothing more.
            texts = [row.prompt + row.said[:-1] for row in chosen]
            log_shares = _last_logits(model, texts, longest, prefix).log_softmax(-1)
            for place, row, shares in zip(places, chosen, log_shares, strict=True):
                count = len(row.said)
                wanted = torch.tensor(row.said, device=shares.device)
                if count:
                    found[place] = float(shares[-count:].gather(1, wanted[:, None]).double().sum())
        on_pass()
    return found


@torch.inference_mode()
def mean_divergence(
    model: ChatGLMForConditionalGeneration,
    rows: Sequence[EncodedExample],
    prefixes: Sequence[Prefix | None],
    pad_id: int,
    on_pass: OnPass = lambda: None,
) -> list[float]:
    """KL(base ‖ tuned) in nats a label token of ``rows``, every token weighing alike, for each of ``prefixes``.

    The base's hidden states are computed once for all prefixes; without a prefix it is 0.
    """
    collate = PaddingCollator(pad_id, IGNORED_LABEL)
    totals, count = [0.0] * len(prefixes), 0
    for places in _passes([len(row.input_ids) for row in rows]):
        batch = [rows[place] for place in places]
        inputs = collate(batch)
        ids, labels = inputs["input_ids"].to(model.device), inputs["labels"].to(model.device)
        base = model.final_hidden(ids)  # [B, S, H]
        tokens = int((labels[:, 1:] != IGNORED_LABEL).sum())
        for place, prefix in enumerate(prefixes):
            if prefix is not None:
                output = model(ids, labels=labels, base_hidden=base, prefix=[prefix] * len(batch))
                totals[place] += float(output.loss) * tokens
        count += tokens
        on_pass()
    return [total / max(count, 1) for total in totals]


def _passes(lengths: Sequence[int]) -> list[list[int]]:
    """Places of rows that are computed together; those of like length side by side, which are padded least."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    return [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]


def _last_logits(
    model: ChatGLMForConditionalGeneration, texts: Sequence[list[int]], count: int, prefix: Prefix | None
) -> Tensor:
    """Logits ``[B, count, V]`` in fp32 of the last ``count`` tokens; short texts are padded in front."""
    length = max(count, *map(len, texts))
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    text = torch.zeros_like(ids)
    for row, known in enumerate(texts):
        ids[row, length - len(known) :] = torch.tensor(known)
        text[row, length - len(known) :] = 1
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=text.to(model.device),
        prefix=[prefix] * len(texts),
        logits_to_keep=count,
    )
    assert output.logits is not None
    return output.logits.float()
