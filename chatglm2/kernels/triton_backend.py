"""When to launch which Triton program, and with which tiles.

Few rows of activations, as in decoding, are bound by reading the weight: they go through programs that unpack it on
the way. Many rows, as in prompts and training, are bound by arithmetic, which cuBLAS does best: the weight is unpacked
once, in a fraction of the product's time, and thrown away. The numbers here were measured on an H100.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
import triton
from torch import Tensor

from chatglm2.kernels.backend import Backend
from chatglm2.kernels.layout import PackedWeight
from chatglm2.kernels.triton_kernels import extract_kernel, gemv_kernel, gradient_kernel, matmul_kernel

# Up to this many rows, a product unpacks the weight on the way; above, unpacking first is faster.
MOST_FUSED_ROWS = 64
MOST_FUSED_GRADIENT_ROWS = 64
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
    def supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
        """Whether the programs take this weight and activations of ``dtype``."""
        # bf16 tensor cores came with compute capability 8.0; before 7.0 Triton compiles nothing.
        oldest = (8, 0) if dtype == torch.bfloat16 else (7, 0)
        capable = torch.cuda.get_device_capability(weight.integers.device) >= oldest
        aligned = weight.columns % COLUMN_ALIGNMENT == 0 and weight.integers.is_contiguous()
        return dtype in (torch.float16, torch.bfloat16) and capable and aligned

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if len(x) > MOST_FUSED_ROWS:
            return F.linear(x, self.dense(), bias)
        x = x.contiguous()
        y = torch.empty(len(x), self.weight.rows, dtype=x.dtype, device=x.device)
        launch = self._gemv if len(x) == 1 else self._few_rows
        with torch.cuda.device(x.device):
            launch(x, bias, y)
        return y

    def _gemv(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        weight = self.weight
        words = weight.integers.shape[1] // 4
        gemv_kernel[(triton.cdiv(weight.rows, 8),)](
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
        )

    def _few_rows(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        weight = self.weight
        group_bytes = (weight.group_size or 0) * weight.bits // 8
        tile = choose_tile(len(x), weight.rows, group_bytes)
        matmul_kernel[(triton.cdiv(weight.rows, tile.rows), triton.cdiv(len(x), tile.tokens))](
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
        )

    def input_gradient(self, gradient: Tensor) -> Tensor:
        if len(gradient) > MOST_FUSED_GRADIENT_ROWS:
            return gradient @ self.dense()
        weight, count = self.weight, len(gradient)
        x_gradient = torch.empty(count, weight.columns, dtype=gradient.dtype, device=gradient.device)
        tokens, columns = 64, 64
        with torch.cuda.device(gradient.device):
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

    def dense(self) -> Tensor:
        """The weight ``[N, K]`` in the activations' dtype."""
        weight = self.weight
        dense = torch.empty(weight.rows, weight.columns, dtype=self.dtype, device=weight.integers.device)
        rows, columns = 16, 256
        with torch.cuda.device(dense.device):
            extract_kernel[(triton.cdiv(weight.rows, rows), triton.cdiv(weight.columns, columns))](
                weight.integers,
                weight.scale,
                dense,
                weight.rows,
                K=weight.columns,
                BITS=weight.bits,
                GROUP=weight.group_size or 0,
                BLOCK_N=rows,
                BLOCK_K=columns,
                num_warps=4,
            )
        return dense


def choose_tile(tokens: int, rows: int, group_bytes: int) -> Tile:
    """Tiles for ``tokens`` rows of activations and ``rows`` of the weight.

    A small weight wants small tiles, so that they fill the card; a tile may not span two groups of columns.
    """
    if tokens <= 8:
        tile = Tile(8, 64, 128, 4, 4) if rows > 8192 else Tile(8, 16, 128, 1, 5)
    elif tokens <= 16:
        tile = Tile(16, 64, 128, 4, 4)
    elif tokens <= 32:
        tile = Tile(32, 64, 64, 4, 4)
    else:
        tile = Tile(64, 64, 64, 4, 4)
    return tile._replace(row_bytes=min(tile.row_bytes, group_bytes or tile.row_bytes))
