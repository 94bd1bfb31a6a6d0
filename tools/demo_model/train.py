"""Trains the demo model from scratch on the generated corpus.

Rows are encoded once, in parallel, and batched by tokens with rows of like length together. The learning rate follows a
cosine over the steps or over the time allowed, whichever ends first, so that a run on a lent machine ends in order.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatglm2.model.modeling import IGNORED_LABEL, ChatGLMForConditionalGeneration
from chatglm2.text.tokenizer import TOKENIZER_FILE, ChatGLMTokenizer
from tools.demo_model.checkpoint import build_model, export_checkpoint
from tools.demo_model.corpus import Corpus

CHUNK_ROWS = 10_000
MAX_ROW_TOKENS = 1024
LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Recipe:
    """How the model is trained."""

    rows: int = 1_500_000
    steps: int = 10_000
    batch_tokens: int = 49_152
    learning_rate: float = 2e-3
    final_share: float = 0.02
    warmup_steps: int = 300
    weight_decay: float = 0.05
    seed: int = 1
    minutes: float = 8.0
    log_every: int = 50


@dataclass(frozen=True)
class EncodedRow:
    """Ids of one conversation; what comes before ``answer_start`` is given, the rest is learnt."""

    ids: np.ndarray
    answer_start: int


def train(tokenizer_directory: Path, output: Path, recipe: Recipe) -> None:
    """Train, then write the checkpoint and ``training-log.jsonl`` into ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows = encode_corpus(tokenizer_directory / TOKENIZER_FILE, recipe)
    print(f"{len(rows):,} rows, {sum(len(row.ids) for row in rows):,} tokens in {time.monotonic() - started:.0f} s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    tokenizer = ChatGLMTokenizer(tokenizer_directory / TOKENIZER_FILE)
    model = build_model(tokenizer.vocab_size).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
    with (output / "training-log.jsonl").open("w", encoding="utf-8") as log:
        for record in _optimise(model, rows, recipe, device):
            line = json.dumps(record)
            print(line, flush=True)
            log.write(line + "\n")
    export_checkpoint(model, tokenizer.vocab_size, output)


def _optimise(
    model: ChatGLMForConditionalGeneration, rows: Sequence[EncodedRow], recipe: Recipe, device: torch.device
) -> Iterator[dict[str, float]]:
    """Update the weights; yield a log record now and then."""
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), betas=(0.9, 0.95), fused=device.type == "cuda")
    started, tokens, losses = time.monotonic(), 0, []
    for step, (ids, labels) in enumerate(_batches(rows, recipe), 1):
        progress = max(step / recipe.steps, (time.monotonic() - started) / (60 * recipe.minutes))
        rate = _learning_rate(step, progress, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(ids.to(device), labels=labels.to(device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += ids.numel()
        losses.append(loss.detach())
        if step % recipe.log_every == 0 or progress >= 1:
            mean_loss = torch.stack(losses).mean().item()
            losses = []
            seconds = round(time.monotonic() - started, 1)
            yield {"step": step, "loss": round(mean_loss, 4), "lr": rate, "tokens": tokens, "seconds": seconds}
        if progress >= 1:
            return


def _learning_rate(step: int, progress: float, recipe: Recipe) -> float:
    warmup = min(step / recipe.warmup_steps, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * warmup * (recipe.final_share + (1 - recipe.final_share) * cosine)


def _parameter_groups(model: ChatGLMForConditionalGeneration, recipe: Recipe) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _batches(rows: Sequence[EncodedRow], recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded ids and labels ``[B, S]``, for ever; every pass over the rows in a new order."""
    rng = random.Random(recipe.seed)
    groups: list[list[EncodedRow]] = [[]]
    for row in sorted(rows, key=_padded_length):
        if groups[-1] and (
            _padded_length(row) != _padded_length(groups[-1][0])
            or (len(groups[-1]) + 1) * _padded_length(row) > recipe.batch_tokens
        ):
            groups.append([])
        groups[-1].append(row)
    while True:
        rng.shuffle(groups)
        for group in groups:
            yield _pad(group)


def _padded_length(row: EncodedRow) -> int:
    """A multiple, so that there are few shapes: a GPU is slow on every shape that it meets first."""
    return -(-len(row.ids) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _pad(group: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
    ids = np.zeros((len(group), _padded_length(group[0])), dtype=np.int64)
    labels = np.full_like(ids, IGNORED_LABEL)
    for index, row in enumerate(group):
        ids[index, : len(row.ids)] = row.ids
        labels[index, row.answer_start : len(row.ids)] = row.ids[row.answer_start :]
    return torch.from_numpy(ids), torch.from_numpy(labels)


def encode_corpus(tokenizer_file: Path, recipe: Recipe) -> list[EncodedRow]:
    """The corpus as ids; chunk n is generated from the seed and n, so the number of processes changes nothing."""
    chunks = -(-recipe.rows // CHUNK_ROWS)
    tasks = [(tokenizer_file, recipe.seed * 100_000 + n, min(CHUNK_ROWS, recipe.rows)) for n in range(chunks)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return [row for chunk in pool.map(_encode_chunk, tasks) for row in chunk]


def _encode_chunk(task: tuple[Path, int, int]) -> list[EncodedRow]:
    tokenizer_file, seed, count = task
    tokenizer = ChatGLMTokenizer(tokenizer_file)
    encoded = []
    for row in Corpus().rows(seed, count):
        prompt = tokenizer.encode_prompt(row.question, row.history)
        answer = [*tokenizer.encode_text(row.answer), tokenizer.eos_token_id]
        if len(prompt) + len(answer) <= MAX_ROW_TOKENS:
            encoded.append(EncodedRow(np.array(prompt + answer, dtype=np.uint16), len(prompt)))
    return encoded
