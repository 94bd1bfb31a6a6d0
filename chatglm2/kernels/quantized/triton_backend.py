"""When to launch which Triton program, and with which tiles.

Few rows of activations, as in decoding, are bound by reading the weight: they go through programs that unpack it on
the way. Many rows, as in prompts and training, are bound by arithmetic, which cuBLAS does best: the weight is unpacked
once, in a fraction of the product's time, and thrown away. Tiles and limits are what was fastest for INT4 on an H100.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
import triton
from torch import Tensor

from chatglm2.kernels.launching import launch_options, on_device_of
from chatglm2.kernels.quantized.backend import Backend
from chatglm2.kernels.quantized.layout import PackedWeight
from chatglm2.kernels.quantized.triton_kernels import extract_kernel, few_rows_kernel, gradient_kernel, one_row_kernel

# Up to this many rows, a product unpacks the weight on the way; above, unpacking first is as fast or faster.
MOST_FUSED_ROWS = 64
MOST_FUSED_GRADIENT_ROWS = 16
# Weights with more rows than this fill the card with large tiles.
MANY_ROWS = 8192
# Weight rows of more bytes than this are long enough for four warps to share.
LONG_ROW_BYTES = 4096
# Columns that a program unpacks.
EXTRACTED_COLUMNS = 256
# A gradient of this many tokens keeps the card busy with half of a weight; one of more numbers than this is worth
# halving: 128 MiB in half precision.
MANY_TOKENS = 2048
LARGE_WEIGHT = 1 << 26
# The kernels read weights in vectors of this many columns.
COLUMN_ALIGNMENT = 64


class Tile(NamedTuple):
    """How a product is cut up: rows of activations, rows of the weight, bytes of a weight row; warps and stages."""

    tokens: int
    rows: int
    row_bytes: int
    warps: int
    stages: int


class TritonBackend(Backend):
    """INT4 and INT8 on a CUDA GPU, in fp16 and bf16."""

    name = "triton"

    @staticmethod
    def supports(weight: PackedWeight) -> bool:
        """Whether the programs take this weight."""
        return weight.columns % COLUMN_ALIGNMENT == 0 and weight.integers.is_contiguous()

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if len(x) > MOST_FUSED_ROWS:
            return F.linear(x, self.dense(), bias)
        return self.fused_matmul(x, bias)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        if len(gradient) > MOST_FUSED_GRADIENT_ROWS:
            return self._unpacked_input_gradient(gradient)
        return self.fused_input_gradient(gradient)

    def _unpacked_input_gradient(self, gradient: Tensor) -> Tensor:
        """By half of the columns at a time where there is enough to do: less of a large weight is unpacked at once."""
        columns = self.weight.columns
        if len(gradient) < MANY_TOKENS or self.weight.rows * columns <= LARGE_WEIGHT:
            return gradient @ self.dense()
        x_gradient = gradient.new_empty(len(gradient), columns)
        width = triton.cdiv(columns, 2 * EXTRACTED_COLUMNS) * EXTRACTED_COLUMNS
        for first in range(0, columns, width):
            part = self.dense(first, min(width, columns - first))
            torch.mm(gradient, part, out=x_gradient[:, first : first + part.shape[1]])
            del part  # before the next one is unpacked
        return x_gradient

    def fused_matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`matmul` that writes no dense weight."""
        x = x.contiguous()
        y = torch.empty(len(x), self.weight.rows, dtype=x.dtype, device=x.device)
        # One row needs no tensor cores, except where the arithmetic without them takes longer than reading the weight.
        one_row = len(x) == 1 and (self.weight.rows <= MANY_ROWS or self.weight.bits == 8)
        with on_device_of(x):
            (self._one_row if one_row else self._few_rows)(x, bias, y)
        return y

    def _one_row(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        weight = self.weight
        words = weight.integers.shape[1] // 4
        one_row_kernel[(triton.cdiv(weight.rows, 8),)](
            x,
            weight.integers.view(torch.int32),
            weight.scale,
            bias if bias is not None else x,
            y,
            weight.rows,
            ROW_WORDS=words,
            BITS=weight.bits,
            GROUP_WORDS=(weight.group_size or 0) * weight.bits // 32,
            HAS_BIAS=bias is not None,
            BLOCK_N=8,
            WORDS=256,
            num_warps=4,
            **launch_options(),
        )

    def _few_rows(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        weight = self.weight
        group_bytes = (weight.group_size or 0) * weight.bits // 8
        tile = choose_tile(len(x), weight, group_bytes)
        few_rows_kernel[(triton.cdiv(weight.rows, tile.rows), triton.cdiv(len(x), tile.tokens))](
            x.view(torch.int32) if weight.bits == 4 else x,
            weight.integers,
            weight.scale,
            bias if bias is not None else x,
            y,
            len(x),
            weight.rows,
            ROW_BYTES=weight.integers.shape[1],
            BITS=weight.bits,
            GROUP_BYTES=group_bytes,
            HAS_BIAS=bias is not None,
            BLOCK_M=tile.tokens,
            BLOCK_N=tile.rows,
            BLOCK=tile.row_bytes,
            STAGES=tile.stages,
            num_warps=tile.warps,
            **launch_options(),
        )

    def fused_input_gradient(self, gradient: Tensor) -> Tensor:
        """`input_gradient` that writes no dense weight."""
        weight, count = self.weight, len(gradient)
        x_gradient = torch.empty(count, weight.columns, dtype=gradient.dtype, device=gradient.device)
        tokens, columns = 64, 64
        with on_device_of(gradient):
            gradient_kernel[(triton.cdiv(count, tokens) * triton.cdiv(weight.columns, columns),)](
                gradient,
                weight.integers,
                weight.scale,
                x_gradient,
                count,
                N=weight.rows,
                K=weight.columns,
                BITS=weight.bits,
                GROUP=weight.group_size or 0,
                BLOCK_M=tokens,
                BLOCK_N=128,
                BLOCK_K=columns,
                GROUP_M=8,
                num_warps=4,
                num_stages=3,
            )
        return x_gradient

    def dense(self, first: int = 0, width: int | None = None) -> Tensor:
        """The weight ``[N, K]`` in the activations' dtype, or ``width`` of its columns from ``first``.

        ``first`` is a multiple of `EXTRACTED_COLUMNS`.
        """
        weight = self.weight
        width = weight.columns - first if width is None else width
        dense = torch.empty(weight.rows, width, dtype=self.dtype, device=weight.integers.device)
        rows, columns = 16, EXTRACTED_COLUMNS
        with on_device_of(dense):
            extract_kernel[(triton.cdiv(weight.rows, rows), triton.cdiv(width, columns))](
                weight.integers,
                weight.scale,
                dense,
                first,
                weight.rows,
                K=weight.columns,
                WIDTH=width,
                BITS=weight.bits,
                GROUP=weight.group_size or 0,
                BLOCK_N=rows,
                BLOCK_K=columns,
                num_warps=4,
            )
        return dense


def choose_tile(tokens: int, weight: PackedWeight, group_bytes: int) -> Tile:
    """The fastest tiles for ``tokens`` rows of activations; a tile may not span two groups of columns."""
    if tokens == 1:
        tile = Tile(8, 16, 128, 1, 3)
    elif tokens <= 8 and weight.rows > MANY_ROWS:
        tile = Tile(8, 64, 128, 4, 3)
    elif tokens <= 8:
        tile = Tile(8, 32, 256, 4 if weight.integers.shape[1] > LONG_ROW_BYTES else 2, 3)
    elif tokens <= 16:
        tile = Tile(16, 32, 128, 2, 4)
    else:
        tile = Tile(64, 64, 64, 4, 3)  # 56 KiB of shared memory: every card has it
    return tile._replace(row_bytes=min(tile.row_bytes, group_bytes or tile.row_bytes))
