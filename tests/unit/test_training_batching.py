"""Batches hold rows of like length in an order that seed and epoch decide alone."""

from __future__ import annotations

import torch

from training.batching import LengthGroupedSampler, PaddingCollator
from training.data import EncodedExample


def padding_share(lengths: list[int], order: list[int], batch_size: int) -> float:
    batches = [[lengths[index] for index in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
    computed = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / computed


def test_every_row_is_seen_once_an_epoch() -> None:
    sampler = LengthGroupedSampler([index % 7 for index in range(103)], batch_size=8, seed=1)
    assert sorted(sampler) == list(range(103))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [index % 50 for index in range(400)]
    first, same, other = (LengthGroupedSampler(lengths, 8, seed) for seed in (1, 1, 2))
    torch.manual_seed(5)
    before = list(first)
    torch.manual_seed(6)
    assert list(same) == before
    assert list(other) != before
    first.set_epoch(1)
    assert list(first) != before


def test_rows_of_like_length_waste_little_padding() -> None:
    lengths = [20 + (index * 37) % 180 for index in range(1024)]
    grouped = list(LengthGroupedSampler(lengths, 16, seed=0))
    assert padding_share(lengths, grouped, 16) < 0.05 < padding_share(lengths, list(range(1024)), 16)


def test_lengths_do_not_drift_over_an_epoch() -> None:
    lengths = list(range(640))
    order = list(LengthGroupedSampler(lengths, 16, seed=0))
    halves = [sum(lengths[index] for index in half) / 320 for half in (order[:320], order[320:])]
    assert abs(halves[0] - halves[1]) < 100


def test_a_short_last_batch_stays_last() -> None:
    lengths = list(range(35))
    order = list(LengthGroupedSampler(lengths, 16, seed=0))
    # The shortest three rows are the rest of the last pool; the first batches are whole and of like length.
    assert sorted(order[32:]) == [0, 1, 2]
    assert {tuple(sorted(order[:16])), tuple(sorted(order[16:32]))} == {tuple(range(3, 19)), tuple(range(19, 35))}


def test_rows_are_padded_to_the_longest_of_their_batch() -> None:
    rows = [EncodedExample([5, 6, 7], [-100, 6, 7]), EncodedExample([8], [8])]
    batch = PaddingCollator(pad_id=0, label_padding=-100)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["token_count"] == 4
