"""Triton programs that multiply by packed INT4 and INT8 weights without ever writing the dense weight to memory.

Knows the packed layout (see `layout`) and how to walk it; knows nothing of modules, autograd or when a program is
worth its launch. fp16 and bf16 in and out, sums in fp32.

K columns in, N rows out, M rows of activations. A *word* is 32 bits of a weight row: 8 columns of INT4, 4 of INT8.
"""

from __future__ import annotations

import triton
import triton.language as tl

from chatglm2.kernels.launching import let_next_start, wait_for_previous

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

# Four bytes of INT4 to eight numbers, by the same trick: under the exponent of 1024, an fp16 number's low mantissa bits
# are an integer; under that of 128 a bf16 number's are. $0 and $1 get the high integers, $2 and $3 the low ones.
_BYTES_TO_HALVES = tl.constexpr("""{
    .reg .b32 front, back, sixteenth, minus_72, plus_1032;
    prmt.b32 front, $4, 0, 0x4140;
    prmt.b32 back, $4, 0, 0x4342;
    lop3.b32 $0, front, 0x00F000F0, 0x64806480, 0x6A;
    lop3.b32 $1, back, 0x00F000F0, 0x64806480, 0x6A;
    lop3.b32 $2, front, 0x000F000F, 0x64086408, 0x6A;
    lop3.b32 $3, back, 0x000F000F, 0x64086408, 0x6A;
    mov.b32 sixteenth, 0x2C002C00;
    mov.b32 minus_72, 0xD480D480;
    mov.b32 plus_1032, 0x64086408;
    fma.rn.f16x2 $0, $0, sixteenth, minus_72;
    fma.rn.f16x2 $1, $1, sixteenth, minus_72;
    sub.f16x2 $2, $2, plus_1032;
    sub.f16x2 $3, $3, plus_1032;
}""")
_BYTES_TO_BFLOATS = tl.constexpr("""{
    .reg .b32 front, back, high_front, high_back, one, minus_136;
    prmt.b32 front, $4, 0, 0x4140;
    prmt.b32 back, $4, 0, 0x4342;
    shr.u32 high_front, front, 4;
    shr.u32 high_back, back, 4;
    lop3.b32 $0, high_front, 0x000F000F, 0x43084308, 0x6A;
    lop3.b32 $1, high_back, 0x000F000F, 0x43084308, 0x6A;
    lop3.b32 $2, front, 0x000F000F, 0x43084308, 0x6A;
    lop3.b32 $3, back, 0x000F000F, 0x43084308, 0x6A;
    mov.b32 one, 0x3F803F80;
    mov.b32 minus_136, 0xC308C308;
    fma.rn.bf16x2 $0, $0, one, minus_136;
    fma.rn.bf16x2 $1, $1, one, minus_136;
    fma.rn.bf16x2 $2, $2, one, minus_136;
    fma.rn.bf16x2 $3, $3, one, minus_136;
}""")


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
def one_row_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    N,
    ROW_WORDS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WORDS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """``y = x @ (weight * scale).T + bias`` for one row ``x``, without tensor cores.

    ``weight`` holds ``[N, ROW_WORDS]`` int32; ``scale`` is ``[N]`` where GROUP_WORDS is 0, else
    ``[N, ROW_WORDS / GROUP_WORDS]``.
    """
    wait_for_previous(OVERLAPS)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = row < N
    total = tl.zeros((BLOCK_N, WORDS), tl.float32)
    for start in range(0, ROW_WORDS, WORDS):
        index = start + tl.arange(0, WORDS)
        inside = index < ROW_WORDS
        seen = valid[:, None] & inside[None, :]
        words = tl.load(weight_ptr + row[:, None] * ROW_WORDS + index[None, :], mask=seen, other=0)
        product = _dot_words(words, x_ptr, index, inside, BITS, WORDS)
        if GROUP_WORDS > 0:
            groups = row[:, None] * (ROW_WORDS // GROUP_WORDS) + index[None, :] // GROUP_WORDS
            product *= tl.load(scale_ptr + groups, mask=seen, other=0.0).to(tl.float32)
        total += product
    let_next_start(OVERLAPS)
    y = tl.sum(total, axis=1)
    if GROUP_WORDS == 0:
        y *= tl.load(scale_ptr + row, mask=valid, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + row, mask=valid, other=0.0).to(tl.float32)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=valid)


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
def _unpack_bytes(packed, dtype: tl.constexpr):
    """High and low integers of each byte of ``packed`` in fp16 or bf16, exactly."""
    if dtype == tl.float16:
        high, low = tl.inline_asm_elementwise(
            _BYTES_TO_HALVES,
            "=&r,=&r,=&r,=&r,r",
            [packed],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    else:
        high, low = tl.inline_asm_elementwise(
            _BYTES_TO_BFLOATS,
            "=&r,=&r,=&r,=&r,r",
            [packed],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )
    return high, low


@triton.jit
def _dot_tile(
    x_ptr, weight_ptr, row, token, start, M, N, ROW_BYTES: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, dtype
):
    """Products ``[rows, tokens]`` of BLOCK bytes of each weight row's integers with the activations."""
    byte = start + tl.arange(0, BLOCK)
    inside = byte < ROW_BYTES
    packed_at = weight_ptr + row[:, None] * ROW_BYTES + byte[None, :]
    packed = tl.load(packed_at, mask=(row < N)[:, None] & inside[None, :], other=0)
    # INT4: x_ptr sees two columns as one int32, whose halves belong to the two integers of a byte.
    x_at = x_ptr + token[None, :] * ROW_BYTES + byte[:, None]
    x = tl.load(x_at, mask=(token < M)[None, :] & inside[:, None], other=0)
    if BITS == 4:
        high, low = _unpack_bytes(packed, dtype)
        first = x.to(tl.int16).to(dtype, bitcast=True)
        second = (x >> 16).to(tl.int16).to(dtype, bitcast=True)
        product = tl.dot(low, second, tl.dot(high, first))
    else:
        product = tl.dot(packed.to(dtype), x)
    return product


@triton.jit(do_not_specialize=["M"])  # else a program a number of rows
def few_rows_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    ROW_BYTES: tl.constexpr,
    BITS: tl.constexpr,
    GROUP_BYTES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """``y = x @ (weight * scale).T + bias`` on tensor cores, for a few to some dozens of rows of ``x``.

    GROUP_BYTES is 0 for a scale a row, else the bytes of a weight row that share a scale, a multiple of BLOCK. ``x`` is
    seen as int32 where BITS is 4. The weight is the left operand: it is unpacked in the registers that multiply it.
    """
    wait_for_previous(OVERLAPS)
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, ROW_BYTES, BLOCK, num_stages=STAGES):
        product = _dot_tile(x_ptr, weight_ptr, row, token, start, M, N, ROW_BYTES, BITS, BLOCK, dtype)
        if GROUP_BYTES > 0:
            scale_at = scale_ptr + row * (ROW_BYTES // GROUP_BYTES) + start // GROUP_BYTES
            product *= tl.load(scale_at, mask=row < N, other=0.0).to(tl.float32)[:, None]
        total += product
    let_next_start(OVERLAPS)
    if GROUP_BYTES == 0:
        total *= tl.load(scale_ptr + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    if HAS_BIAS:
        total += tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    target = y_ptr + token[None, :] * N + row[:, None]
    tl.store(target, total.to(dtype), mask=(token < M)[None, :] & (row < N)[:, None])


@triton.jit(do_not_specialize=["M"])  # else a program a number of rows
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
    first,
    N,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """WIDTH columns of the dense weight from column ``first``, ``[N, WIDTH]``; ``first`` is a multiple of BLOCK_K."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    start = first + tl.program_id(1) * BLOCK_K
    column = start + tl.arange(0, BLOCK_K)
    seen = (row < N)[:, None] & (column < first + WIDTH)[None, :]
    integers = _load_integers(weight_ptr, row, start, N, K, BITS, BLOCK_N, BLOCK_K)
    if GROUP > 0:
        group = row[:, None] * (K // GROUP) + column[None, :] // GROUP
        scales = tl.load(scale_ptr + group, mask=seen, other=0.0).to(tl.float32)
    else:
        scales = tl.load(scale_ptr + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    dense = integers.to(tl.float32) * scales
    tl.store(
        dense_ptr + row.to(tl.int64)[:, None] * WIDTH + (column - first)[None, :],
        dense.to(dense_ptr.dtype.element_ty),
        mask=seen,
    )
