"""Triton programs that multiply by packed INT4 and INT8 weights without ever writing the dense weight to memory.

Knows the packed layout (see `chatglm2.quantization`) and how to walk it; knows nothing of modules, autograd or when a
program is worth its launch. fp16 and bf16 in and out, sums in fp32.

K columns in, N rows out, M rows of activations. A *word* is 32 bits of a weight row: 8 columns of INT4, 4 of INT8.
"""

from __future__ import annotations

import triton
import triton.language as tl

# An integer q written into the mantissa of an fp32 number is that number plus q, without a conversion instruction.
# INT4 fields are read at two places, so that one shift serves two of them: at bit 19 under the exponent of 16, and at
# bit 15 under the exponent of 256; INT8 fields at bit 15. The exclusive or turns two's complement into offset binary,
# q + 8 or q + 128; what is too much is taken off again once for a word.
_HIGH_MASK = tl.constexpr(0x00780000)
_HIGH_FLIP = tl.constexpr(0x41C00000)
_HIGH_EXCESS = tl.constexpr(24.0)
_LOW_MASK = tl.constexpr(0x00078000)
_LOW_FLIP = tl.constexpr(0x43840000)
_LOW_EXCESS = tl.constexpr(264.0)
_BYTE_MASK = tl.constexpr(0x007F8000)
_BYTE_FLIP = tl.constexpr(0x43C00000)
_BYTE_EXCESS = tl.constexpr(384.0)


@triton.jit
def _field(word, mask: tl.constexpr, flip: tl.constexpr):
    # (word & mask) ^ flip in one instruction, which the compiler would make two of.
    return tl.inline_asm_elementwise(
        "lop3.b32 $0, $1, $2, $3, 0x6A;", "=f,r,r,r", [word, mask, flip], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _split_pairs(x, WORDS: tl.constexpr, SIZE: tl.constexpr):
    """``[WORDS, SIZE]`` to its even and its odd columns, ``[WORDS, SIZE / 2]`` each."""
    return tl.split(x.reshape(WORDS, SIZE // 2, 2))


@triton.jit
def _dot_words(words, x_ptr, index, inside, BITS: tl.constexpr, WORDS: tl.constexpr):
    """Inner products ``[rows, WORDS]`` of each word's integers with its columns of one activation row."""
    PER_WORD: tl.constexpr = 32 // BITS
    columns = index[:, None] * PER_WORD + tl.arange(0, PER_WORD)[None, :]
    x = tl.load(x_ptr + columns, mask=inside[:, None], other=0.0).to(tl.float32)
    if BITS == 4:
        even, odd = _split_pairs(x, WORDS, 8)
        even_04, even_26 = _split_pairs(even, WORDS, 4)
        odd_15, odd_37 = _split_pairs(odd, WORDS, 4)
        x0, x4 = tl.split(even_04)
        x2, x6 = tl.split(even_26)
        x1, x5 = tl.split(odd_15)
        x3, x7 = tl.split(odd_37)
        excess = (x0 + x2 + x4 + x6) * _HIGH_EXCESS + (x1 + x3 + x5 + x7) * _LOW_EXCESS
        total = _field(words << 15, _HIGH_MASK, _HIGH_FLIP) * x0[None, :] - excess[None, :]
        total += _field(words << 15, _LOW_MASK, _LOW_FLIP) * x1[None, :]
        total += _field(words << 7, _HIGH_MASK, _HIGH_FLIP) * x2[None, :]
        total += _field(words << 7, _LOW_MASK, _LOW_FLIP) * x3[None, :]
        total += _field(words >> 1, _HIGH_MASK, _HIGH_FLIP) * x4[None, :]
        total += _field(words >> 1, _LOW_MASK, _LOW_FLIP) * x5[None, :]
        total += _field(words >> 9, _HIGH_MASK, _HIGH_FLIP) * x6[None, :]
        total += _field(words >> 9, _LOW_MASK, _LOW_FLIP) * x7[None, :]
    else:
        even, odd = _split_pairs(x, WORDS, 4)
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        excess = (x0 + x1 + x2 + x3) * _BYTE_EXCESS
        total = _field(words << 15, _BYTE_MASK, _BYTE_FLIP) * x0[None, :] - excess[None, :]
        total += _field(words << 7, _BYTE_MASK, _BYTE_FLIP) * x1[None, :]
        total += _field(words >> 1, _BYTE_MASK, _BYTE_FLIP) * x2[None, :]
        total += _field(words >> 9, _BYTE_MASK, _BYTE_FLIP) * x3[None, :]
    return total


@triton.jit
def _store_row(total, y_ptr, bias_ptr, scale, row, valid, HAS_BIAS: tl.constexpr):
    value = tl.sum(total, axis=1) * scale
    if HAS_BIAS:
        value += tl.load(bias_ptr + row, mask=valid, other=0.0).to(tl.float32)
    tl.store(y_ptr + row, value.to(y_ptr.dtype.element_ty), mask=valid)


@triton.jit
def gemv_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    N,
    ROW_WORDS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WORDS: tl.constexpr,
):
    """``y = x @ (weight * scale).T + bias`` for 1 to 4 rows of ``x``, at the speed of reading ``weight`` once.

    ``weight`` holds ``[N, ROW_WORDS]`` int32; ``scale`` is ``[N]`` where GROUP_WORDS is 0, else
    ``[N, ROW_WORDS / GROUP_WORDS]``. A program computes BLOCK_N outputs for all rows of ``x``.
    """
    PER_WORD: tl.constexpr = 32 // BITS
    K: tl.constexpr = ROW_WORDS * PER_WORD
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = row < N
    total0 = tl.zeros((BLOCK_N, WORDS), tl.float32)
    total1 = tl.zeros((BLOCK_N, WORDS), tl.float32)
    total2 = tl.zeros((BLOCK_N, WORDS), tl.float32)
    total3 = tl.zeros((BLOCK_N, WORDS), tl.float32)
    for start in range(0, ROW_WORDS, WORDS):
        index = start + tl.arange(0, WORDS)
        inside = index < ROW_WORDS
        seen = valid[:, None] & inside[None, :]
        words = tl.load(weight_ptr + row[:, None] * ROW_WORDS + index[None, :], mask=seen, other=0)
        scale = 1.0
        if GROUP_WORDS > 0:
            groups = row[:, None] * (ROW_WORDS // GROUP_WORDS) + index[None, :] // GROUP_WORDS
            scale = tl.load(scale_ptr + groups, mask=seen, other=0.0).to(tl.float32)
        total0 += _dot_words(words, x_ptr, index, inside, BITS, WORDS) * scale
        if ROWS > 1:
            total1 += _dot_words(words, x_ptr + K, index, inside, BITS, WORDS) * scale
        if ROWS > 2:
            total2 += _dot_words(words, x_ptr + 2 * K, index, inside, BITS, WORDS) * scale
        if ROWS > 3:
            total3 += _dot_words(words, x_ptr + 3 * K, index, inside, BITS, WORDS) * scale
    row_scale = 1.0
    if GROUP_WORDS == 0:
        row_scale = tl.load(scale_ptr + row, mask=valid, other=0.0).to(tl.float32)
    _store_row(total0, y_ptr, bias_ptr, row_scale, row, valid, HAS_BIAS)
    if ROWS > 1:
        _store_row(total1, y_ptr + N, bias_ptr, row_scale, row, valid, HAS_BIAS)
    if ROWS > 2:
        _store_row(total2, y_ptr + 2 * N, bias_ptr, row_scale, row, valid, HAS_BIAS)
    if ROWS > 3:
        _store_row(total3, y_ptr + 3 * N, bias_ptr, row_scale, row, valid, HAS_BIAS)


@triton.jit
def _load_integers(
    weight_ptr, row, start, N, K: tl.constexpr, BITS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Integers ``[BLOCK_N, BLOCK_K]`` (int8) of the weight from column ``start``, zeros outside it."""
    if BITS == 4:
        byte = start // 2 + tl.arange(0, BLOCK_K // 2)
        seen = (row < N)[:, None] & (byte < K // 2)[None, :]
        packed = tl.load(weight_ptr + row[:, None] * (K // 2) + byte[None, :], mask=seen, other=0)
        integers = tl.join(packed >> 4, (packed << 4) >> 4).reshape(BLOCK_N, BLOCK_K)
    else:
        column = start + tl.arange(0, BLOCK_K)
        seen = (row < N)[:, None] & (column < K)[None, :]
        integers = tl.load(weight_ptr + row[:, None] * K + column[None, :], mask=seen, other=0)
    return integers


@triton.jit
def _tile_of(program, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Tiles in an order that keeps what neighbours read in the L2 cache."""
    group_size = GROUP_M * tiles_n
    first_m = program // group_size * GROUP_M
    rows = min(tiles_m - first_m, GROUP_M)
    return first_m + program % group_size % rows, program % group_size // rows


@triton.jit
def gemm_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``y = x @ (weight * scale).T + bias`` for many rows of ``x`` ``[M, K]``.

    GROUP is 0 for a scale a row, else the columns that share a scale, a multiple of BLOCK_K.
    """
    tile_m, tile_n = _tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    token = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        seen = (token < M)[:, None] & (column < K)[None, :]
        x = tl.load(x_ptr + token[:, None] * K + column[None, :], mask=seen, other=0.0)
        integers = _load_integers(weight_ptr, row, start, N, K, BITS, BLOCK_N, BLOCK_K)
        weight = tl.trans(integers.to(x.dtype))
        if GROUP > 0:
            scale = tl.load(scale_ptr + row * (K // GROUP) + start // GROUP, mask=row < N, other=0.0)
            total += tl.dot(x, weight) * scale.to(tl.float32)[None, :]
        else:
            total = tl.dot(x, weight, total)
    if GROUP == 0:
        total *= tl.load(scale_ptr + row, mask=row < N, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)[None, :]
    target = y_ptr + token[:, None] * N + row[None, :]
    tl.store(target, total.to(y_ptr.dtype.element_ty), mask=(token < M)[:, None] & (row < N)[None, :])


@triton.jit
def gradient_kernel(
    gradient_ptr,
    weight_ptr,
    scale_ptr,
    x_gradient_ptr,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``x_gradient = gradient @ (weight * scale)``: ``[M, N]`` to ``[M, K]``.

    The weight is scaled before the product: a scaled gradient would leave fp16's range.
    """
    tile_m, tile_k = _tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(K, BLOCK_K), GROUP_M)
    token = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_k * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(0, N, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        seen = (token < M)[:, None] & (row < N)[None, :]
        gradient = tl.load(gradient_ptr + token[:, None] * N + row[None, :], mask=seen, other=0.0)
        integers = _load_integers(weight_ptr, row, tile_k * BLOCK_K, N, K, BITS, BLOCK_N, BLOCK_K)
        scales = tl.load(scale_ptr + row, mask=row < N, other=0.0)[:, None]
        if GROUP > 0:
            group = row[:, None] * (K // GROUP) + column[None, :] // GROUP
            scales = tl.load(scale_ptr + group, mask=(row < N)[:, None] & (column < K)[None, :], other=0.0)
        weight = integers.to(gradient.dtype) * scales.to(gradient.dtype)
        total = tl.dot(gradient, weight, total)
    target = x_gradient_ptr + token[:, None] * K + column[None, :]
    tl.store(target, total.to(x_gradient_ptr.dtype.element_ty), mask=(token < M)[:, None] & (column < K)[None, :])


@triton.jit
def extract_kernel(
    weight_ptr,
    scale_ptr,
    dense_ptr,
    N,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The dense weight ``[N, K]``."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    start = tl.program_id(1) * BLOCK_K
    column = start + tl.arange(0, BLOCK_K)
    seen = (row < N)[:, None] & (column < K)[None, :]
    integers = _load_integers(weight_ptr, row, start, N, K, BITS, BLOCK_N, BLOCK_K)
    if GROUP > 0:
        group = row[:, None] * (K // GROUP) + column[None, :] // GROUP
        scales = tl.load(scale_ptr + group, mask=seen, other=0.0).to(tl.float32)
    else:
        scales = tl.load(scale_ptr + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    dense = integers.to(tl.float32) * scales
    tl.store(
        dense_ptr + row.to(tl.int64)[:, None] * K + column[None, :], dense.to(dense_ptr.dtype.element_ty), mask=seen
    )
