"""What decoding needs of Triton beside gate and rotation: norm, attention, the product of few rows with a dense weight.

Knows shapes and pointers; knows no modules and no graph. Between the projections of a 6-billion-parameter model the
small operations are what keeps a GPU waiting: a launch costs as much as their work.

Shapes: n rows, N query heads, G groups, D channels, T columns of a slot.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatglm2.kernels.launching import launch_options, let_next_start, wait_for_previous

# Parts that the attention of one row and group is split into, so that one long row still fills the card.
SPLITS = 32
KEY_BLOCK = 64
SMALLEST_TILE = 16  # rows that a tensor core multiplies at least
MOST_DENSE_ROWS = SMALLEST_TILE


@triton.jit
def _add_norm_kernel(
    x, delta, weight, normalized, width, eps, HAS_DELTA: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr
):
    let_next_start(OVERLAPS)
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    wait_for_previous(OVERLAPS)
    value = tl.load(x + row + column, mask=inside, other=0.0)
    if HAS_DELTA:
        value = value + tl.load(delta + row + column, mask=inside, other=0.0)
        tl.store(x + row + column, value, mask=inside)
    value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(normalized + row + column, (value * scale * gain).to(normalized.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add ``delta`` to ``x`` ``[n, H]`` in place, and return its RMSNorm."""
    rows, width = x.shape
    normalized = torch.empty_like(x)
    _add_norm_kernel[(rows,)](
        x,
        x if delta is None else delta,
        weight,
        normalized,
        width,
        eps,
        HAS_DELTA=delta is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8,
        **launch_options(),
    )
    return normalized


@triton.jit
def _attention_kernel(
    query,
    keys,
    values,
    columns,
    slots,
    bias,
    partial,
    statistics,
    slot_stride,
    column_stride,
    bias_stride,
    scale,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    let_next_start(OVERLAPS)
    wait_for_previous(OVERLAPS)
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(columns + row).to(tl.int32) + 1
    part = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    start = split * part
    end = tl.minimum(start + part, length)

    member, channel, column = tl.arange(0, TILE), tl.arange(0, CHANNELS), tl.arange(0, BLOCK)
    first_head = (row * GROUPS + group) * SHARE
    query_tile = tl.load(
        query + (first_head + member)[:, None] * CHANNELS + channel[None, :], mask=(member < SHARE)[:, None], other=0.0
    )
    slot = tl.load(slots + row).to(tl.int64)
    base = slot * slot_stride + group * CHANNELS
    highest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    context = tl.zeros([TILE, CHANNELS], tl.float32)
    for offset in range(start, end, BLOCK):
        seen = offset + column < end
        place = base + (offset + column)[:, None].to(tl.int64) * column_stride + channel[None, :]
        key = tl.load(keys + place, mask=seen[:, None], other=0.0)
        extra = tl.load(bias + slot * bias_stride + offset + column, mask=seen, other=0.0)
        score = tl.dot(query_tile, tl.trans(key)) * scale + extra[None, :]
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, axis=1))
        shrink = tl.exp(highest - higher)
        weight = tl.exp(score - higher[:, None])
        value = tl.load(values + place, mask=seen[:, None], other=0.0)
        total = total * shrink + tl.sum(weight, axis=1)
        context = context * shrink[:, None] + tl.dot(weight.to(value.dtype), value)
        highest = higher

    place = ((row * GROUPS + group) * SPLITS + split) * TILE + member
    tl.store(partial + place[:, None] * CHANNELS + channel[None, :], context)
    tl.store(statistics + place * 2, highest)
    tl.store(statistics + place * 2 + 1, total)


@triton.jit
def _combine_kernel(
    partial,
    statistics,
    output,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLITS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    let_next_start(OVERLAPS)
    wait_for_previous(OVERLAPS)
    row, head = tl.program_id(0), tl.program_id(1)
    group, member = head // SHARE, head % SHARE
    split, channel = tl.arange(0, SPLITS), tl.arange(0, CHANNELS)
    place = ((row * GROUPS + group) * SPLITS + split) * TILE + member
    highest = tl.load(statistics + place * 2)
    total = tl.load(statistics + place * 2 + 1)
    share = tl.exp(highest - tl.max(highest, axis=0))  # a part without keys has exp(-inf) = 0
    context = tl.sum(tl.load(partial + place[:, None] * CHANNELS + channel[None, :]) * share[:, None], axis=0)
    context = context / tl.sum(total * share, axis=0)
    tl.store(output + (row * GROUPS * SHARE + head) * CHANNELS + channel, context.to(output.dtype.element_ty))


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, columns: Tensor, slots: Tensor, bias: Tensor
) -> Tensor:
    """Attention of one query a row and head, ``[n, N, D]``, over columns ``0..columns[row]`` of its slot.

    The logits of a slot's columns get ``bias``, fp32 ``[slots, T]``: one table for all strengths, so that a captured
    step goes on with whatever stands in it, and 0 changes no bit. The keys of a row are split in parts, so that a long
    one fills the card; the parts' softmaxes are put together afterwards (flash-decoding, Dao et al. 2023). Returns
    ``[n, N * D]``.
    """
    rows, heads, channels = query.shape
    groups = keys.shape[2]
    share = heads // groups
    tile = max(SMALLEST_TILE, triton.next_power_of_2(share))
    partial = torch.empty(rows, groups, SPLITS, tile, channels, dtype=torch.float32, device=query.device)
    statistics = torch.empty(rows, groups, SPLITS, tile, 2, dtype=torch.float32, device=query.device)
    output = torch.empty(rows, heads * channels, dtype=query.dtype, device=query.device)
    shape = {"GROUPS": groups, "SHARE": share, "TILE": tile, "CHANNELS": channels, "SPLITS": SPLITS}
    shape |= launch_options()
    _attention_kernel[(rows, groups, SPLITS)](
        query,
        keys,
        values,
        columns,
        slots,
        bias,
        partial,
        statistics,
        keys.stride(0),
        keys.stride(1),
        bias.stride(0),
        channels**-0.5,
        BLOCK=KEY_BLOCK,
        num_warps=4,
        **shape,
    )
    _combine_kernel[(rows, heads)](partial, statistics, output, num_warps=2, **shape)
    return output


@triton.jit
def _dense_product_kernel(
    x,
    weight,
    bias,
    output,
    rows,
    inputs,
    outputs,
    HAS_BIAS: tl.constexpr,
    TILE: tl.constexpr,
    OUTPUT_BLOCK: tl.constexpr,
    INPUT_BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    row, column = tl.arange(0, TILE), tl.program_id(0) * OUTPUT_BLOCK + tl.arange(0, OUTPUT_BLOCK)
    valid = column < outputs
    wait_for_previous(OVERLAPS)
    total = tl.zeros([TILE, OUTPUT_BLOCK], tl.float32)
    for start in range(0, inputs, INPUT_BLOCK):
        channel = start + tl.arange(0, INPUT_BLOCK)
        inside = channel < inputs
        x_tile = tl.load(
            x + row[:, None] * inputs + channel[None, :], mask=(row < rows)[:, None] & inside[None, :], other=0.0
        )
        weight_tile = tl.load(
            weight + column[:, None].to(tl.int64) * inputs + channel[None, :],
            mask=valid[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.dot(x_tile, tl.trans(weight_tile))
    let_next_start(OVERLAPS)
    if HAS_BIAS:
        total += tl.load(bias + column, mask=valid, other=0.0).to(tl.float32)[None, :]
    place = output + row[:, None] * outputs + column[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=(row < rows)[:, None] & valid[None, :])


def dense_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` for at most 16 rows, at the speed at which ``weight`` ``[out, in]`` is read."""
    rows, inputs = x.shape
    outputs = weight.shape[0]
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    # Measured on an H100 (`benchmarks/kernels.py`): wide outputs want tall blocks, others long rows.
    if outputs >= 50_000:
        output_block, input_block, stages = 32, 256, 3
    elif outputs >= 16_384:
        output_block, input_block, stages = 64, 128, 3
    else:
        output_block, input_block, stages = 16, 512, 3
    _dense_product_kernel[(triton.cdiv(outputs, output_block),)](
        x,
        weight,
        x if bias is None else bias,
        output,
        rows,
        inputs,
        outputs,
        HAS_BIAS=bias is not None,
        TILE=SMALLEST_TILE,
        OUTPUT_BLOCK=output_block,
        INPUT_BLOCK=input_block,
        num_warps=4,
        num_stages=stages,
        **launch_options(),
    )
    return output
