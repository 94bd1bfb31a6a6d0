"""Examples as batches of tensors: rows of like length together, padded to the longest of them.

Knows order and padding; does not know what the ids mean. The order depends on the seed and the epoch alone, so a
resumed run sees the rows that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from training.data import EncodedExample, Example, ExampleEncoder

# Batches that are sorted by length together: more wastes less padding, fewer mixes lengths better.
POOLED_BATCHES = 32


# How examples lie in memory: in Arrow's columns, a fraction of what as many Python objects take.
COLUMNS = datasets.Features(
    {
        "prompt": datasets.Value("string"),
        "response": datasets.Value("string"),
        "history": datasets.List(datasets.List(datasets.Value("string"))),
    }
)


class ExampleDataset(Dataset[EncodedExample]):
    """Examples that are encoded when they are asked for: training starts at once, whatever the file's size."""

    def __init__(self, examples: Sequence[Example], encoder: ExampleEncoder) -> None:
        self.encoder = encoder
        # Lengths to group by; in characters, as that needs no tokenizing.
        self.approximate_lengths = [example.characters for example in examples]
        columns = {
            "prompt": [example.prompt for example in examples],
            "response": [example.response for example in examples],
            "history": [[list(turn) for turn in example.history] for example in examples],
        }
        self.rows = datasets.Dataset.from_dict(columns, features=COLUMNS)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedExample:
        row = self.rows[index]
        history = tuple((question, answer) for question, answer in row["history"])
        return self.encoder.encode(Example(row["prompt"], row["response"], history))


class PaddingCollator:
    """Pads a batch on the right, to its longest row or to ``pad_to_length``.

    No attention mask: attention is causal, so text never sees the padding behind it, and no label is there.
    """

    def __init__(self, pad_id: int, label_padding: int, pad_to_length: int | None = None) -> None:
        self.pad_id = pad_id
        self.label_padding = label_padding
        self.pad_to_length = pad_to_length

    def __call__(self, rows: Sequence[EncodedExample]) -> dict[str, Any]:
        """``input_ids`` and ``labels`` ``[batch, length]``, and ``token_count``, padding not counted."""
        length = self.pad_to_length or max(len(row.input_ids) for row in rows)
        return {
            "input_ids": self._pad([row.input_ids for row in rows], length, self.pad_id),
            "labels": self._pad([row.labels for row in rows], length, self.label_padding),
            "token_count": sum(len(row.input_ids) for row in rows),
        }

    @staticmethod
    def _pad(rows: Sequence[list[int]], length: int, padding: int) -> Tensor:
        return torch.tensor([row + [padding] * (length - len(row)) for row in rows], dtype=torch.long)


class LengthGroupedSampler(Sampler[int]):
    """All rows in an order of chance, in which each batch holds rows of like length.

    transformers' own sampler goes from long rows to short ones inside its pools; a run of few steps would see a biased
    part of the data, so the batches are shuffled here.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in shuffled.split(self.batch_size * POOLED_BATCHES):
            by_length = pool[self.lengths[pool].argsort(descending=True, stable=True)]
            batches.extend(by_length.split(self.batch_size))
        # A short last batch stays last: the batch sampler cuts the order at multiples of the batch size.
        whole = len(self) // self.batch_size
        order = torch.randperm(whole, generator=generator).tolist() + list(range(whole, len(batches)))
        return iter(torch.cat([batches[index] for index in order]).tolist())
