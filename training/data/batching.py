"""Examples as batches of tensors: rows of like length together, padded to the longest of them.

Knows order, mixing and padding; does not know what the ids mean. The order depends on the seed and the epoch alone, so
a resumed run sees the rows that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, Sampler

from training.data.encoding import EncodedExample, Example, ExampleEncoder

# Batches that are sorted by length together: more wastes less padding, fewer mixes lengths better.
POOLED_BATCHES = 32


@dataclass(frozen=True)
class Mixture:
    """How many rows of the task an epoch has, and how many general rows are mixed in.

    An epoch is one pass over the task's rows. General rows are dealt from a shuffled stack, which is shuffled anew when
    it is used up; the next epoch goes on where this one stopped, so that a long file is used to its end.

    Attributes:
        task_rows: all are seen once an epoch.
        available: general rows, which lie behind the task's.
        ratio: the general rows' share in what is seen.
    """

    task_rows: int
    available: int = 0
    ratio: float = 0.0

    @property
    def general_rows(self) -> int:
        """General rows an epoch."""
        return round(self.task_rows * self.ratio / (1 - self.ratio)) if self.available else 0

    def general_before(self, row: int) -> int:
        """How many of an epoch's first ``row`` rows are general: their share, to within one."""
        return row * self.general_rows // (self.task_rows + self.general_rows)

    def deal(self, seed: int, epoch: int) -> Tensor:
        """The general rows of an epoch, by index."""
        first, last = epoch * self.general_rows, (epoch + 1) * self.general_rows
        if first == last:
            return torch.empty(0, dtype=torch.long)
        return self.task_rows + deal(self.available, first, last, seed)


def deal(available: int, first: int, last: int, seed: int) -> Tensor:
    """Cards ``first`` to ``last`` of a stack of ``available`` that is shuffled anew whenever it is used up."""
    stacks = range(first // available, (last - 1) // available + 1)
    shuffled = [
        torch.randperm(available, generator=torch.Generator().manual_seed((seed << 20) + stack)) for stack in stacks
    ]
    start = first - stacks.start * available
    return torch.cat(shuffled)[start : start + last - first]


# How examples lie in memory: in Arrow's columns, a fraction of what as many Python objects take.
COLUMNS = datasets.Features(
    {
        "prompt": datasets.Value("string"),
        "response": datasets.Value("string"),
        "history": datasets.List(datasets.List(datasets.Value("string"))),
    }
)


class ExampleDataset(Dataset[EncodedExample]):
    """Examples that are encoded when they are asked for: training starts at once, whatever the file's size.

    Args:
        examples: of the task.
        encoder: turns them into ids.
        general: examples to mix in; they lie behind the task's.
        mix_ratio: the share of ``general`` in what is trained on.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: ExampleEncoder,
        general: Sequence[Example] = (),
        mix_ratio: float = 0.0,
    ) -> None:
        self.encoder = encoder
        self.mixture = Mixture(len(examples), len(general), mix_ratio)
        both = [*examples, *general]
        # Lengths to group by; in characters, as that needs no tokenizing.
        self.approximate_lengths = [example.characters for example in both]
        columns = {
            "prompt": [example.prompt for example in both],
            "response": [example.response for example in both],
            "history": [[list(turn) for turn in example.history] for example in both],
        }
        self.rows = datasets.Dataset.from_dict(columns, features=COLUMNS)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.encoder.encode(self.example(index))

    def example(self, index: int) -> Example:
        """A row before it is encoded."""
        row = self.rows[index]
        history = tuple((question, answer) for question, answer in row["history"])
        return Example(row["prompt"], row["response"], history)


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


class EpochSampler(Sampler[int]):
    """An epoch's rows, of the task and mixed in, in an order that subclasses choose by seed and epoch alone."""

    def __init__(self, seed: int, mixture: Mixture) -> None:
        self.seed = seed
        self.mixture = mixture
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.mixture.task_rows + self.mixture.general_rows


class LengthGroupedSampler(EpochSampler):
    """An epoch's rows in an order of chance, in which each batch holds rows of like length.

    transformers' own sampler goes from long rows to short ones inside its pools; a run of few steps would see a biased
    part of the data, so the batches are shuffled here. Where general rows are mixed in, each batch has its share of
    them, to within one row, and so has each stretch of batches: also with a batch size of 1.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, mixture: Mixture | None = None) -> None:
        super().__init__(seed, mixture or Mixture(len(lengths)))
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        task = torch.randperm(self.mixture.task_rows, generator=generator)
        general = self.mixture.deal(self.seed, self.epoch)
        edges = [min(edge, len(self)) for edge in range(0, len(self) + self.batch_size, self.batch_size)]
        edges = list(dict.fromkeys(edges))
        general_edges = [self.mixture.general_before(edge) for edge in edges]
        batches: list[Tensor] = []
        for first in range(0, len(edges) - 1, POOLED_BATCHES):
            pool = slice(first, first + POOLED_BATCHES + 1)
            cuts = torch.tensor(general_edges[pool])
            task_cuts = torch.tensor(edges[pool]) - cuts
            parts = (self._split_by_length(task, task_cuts), self._split_by_length(general, cuts))
            batches.extend(torch.cat(pair) for pair in zip(*parts, strict=True))
        return iter(torch.cat([batches[index] for index in self._order(edges, general_edges, generator)]).tolist())

    def _split_by_length(self, rows: Tensor, cuts: Tensor) -> tuple[Tensor, ...]:
        """A pool's rows from long to short, as the parts that its batches get."""
        pool = rows[cuts[0] : cuts[-1]]
        by_length = pool[self.lengths[pool].argsort(descending=True, stable=True)]
        return by_length.tensor_split(cuts[1:-1] - cuts[0])

    @staticmethod
    def _order(edges: Sequence[int], general_edges: Sequence[int], generator: torch.Generator) -> list[int]:
        """Batches in an order of chance: they change places only with those of as many rows of each kind.

        So shares stay even over the epoch, and a short last batch stays last, as the batch sampler needs it.
        """
        places: dict[tuple[int, int], list[int]] = {}
        for index in range(len(edges) - 1):
            kind = edges[index + 1] - edges[index], general_edges[index + 1] - general_edges[index]
            places.setdefault(kind, []).append(index)
        order = list(range(len(edges) - 1))
        for alike in places.values():
            for place, choice in zip(alike, torch.randperm(len(alike), generator=generator).tolist(), strict=True):
                order[place] = alike[choice]
        return order


class ShuffledSampler(EpochSampler):
    """An epoch's rows in the order in which the original's Trainer takes them, whatever their lengths.

    transformers 4.30 seeds its sampler's generator with the first number that torch draws after ``seed``, and goes on
    with that generator from epoch to epoch. Where general rows are mixed in, they come in between at even distances.
    """

    def __iter__(self) -> Iterator[int]:
        general = iter(self.mixture.deal(self.seed, self.epoch).tolist())
        task = iter(self._task_order())
        for place in range(len(self)):
            is_general = self.mixture.general_before(place + 1) > self.mixture.general_before(place)
            yield next(general if is_general else task)

    def _task_order(self) -> list[int]:
        first = torch.empty((), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(int(first))
        sampler = RandomSampler(range(self.mixture.task_rows), generator=generator)
        for _ in range(self.epoch):
            list(sampler)
        return list(sampler)
