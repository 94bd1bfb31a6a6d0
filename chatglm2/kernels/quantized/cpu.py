"""INT4 and INT8 products on a CPU, through the kernels that torch has for bf16 activations.

They read the packed weight once a few rows of activations, so they win while there are few; many rows are multiplied by
the unpacked weight.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from chatglm2.kernels.quantized.backend import Backend, TorchBackend
from chatglm2.kernels.quantized.layout import PackedWeight, unpack_int4

# More rows than this are faster with the weight unpacked (measured by benchmarks/kernels.py).
MOST_ROWS = 128
# torch's INT4 kernel wants rows in blocks of this many, and groups of columns of one of these sizes.
ROW_BLOCK = 64
GROUP_SIZES = (128, 64, 32)
# torch's INT8 kernel crashes on memory that does not start at a multiple of this, as that of a mapped file may not.
ALIGNMENT_BYTES = 16
# Rows that are repacked at a time.
REPACKED_ROWS = 16 * ROW_BLOCK


class CpuBackend(Backend):
    """Repacks an INT4 weight at its first product; an INT8 weight is used as it is.

    The weight as it came is kept beside the repacked one: state dicts, other devices, many rows and gradients need it,
    and torch has no way back from its layout, which differs from CPU to CPU.
    """

    name = "cpu"

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        super().__init__(weight, dtype)
        self._unpacking = TorchBackend(weight, dtype)
        self._integers = _aligned(weight.integers) if weight.bits == 8 else weight.integers
        self._repacked: tuple[Tensor, int, Tensor] | None = None

    @staticmethod
    def supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
        """Whether torch has a kernel for this weight and activations of ``dtype``."""
        if dtype != torch.bfloat16:
            return False
        if weight.bits == 8:
            return weight.group_size is None and hasattr(torch, "_weight_int8pack_mm")
        fits = weight.rows % ROW_BLOCK == 0 and _kernel_group(weight) is not None
        return fits and hasattr(torch, "_weight_int4pack_mm_for_cpu")

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if len(x) > MOST_ROWS:
            return self._unpacking.matmul(x, bias)
        x = x.contiguous()
        if self.weight.bits == 8:
            product = torch._weight_int8pack_mm(_aligned(x), self._integers, self.weight.scale.to(self.dtype))
        else:
            if self._repacked is None:
                self._repacked = _repack(self.weight)
            packed, group, scales = self._repacked
            product = torch._weight_int4pack_mm_for_cpu(x, packed, group, scales)
        return product if bias is None else product + bias

    def input_gradient(self, gradient: Tensor) -> Tensor:
        return self._unpacking.input_gradient(gradient)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where it is, or a copy where torch's INT8 kernel can read it."""
    return tensor if tensor.data_ptr() % ALIGNMENT_BYTES == 0 else tensor.clone()


def _kernel_group(weight: PackedWeight) -> int | None:
    """The group size to tell torch's kernel, which has none for a whole row."""
    wanted = weight.group_size
    if wanted is not None:
        return wanted if wanted in GROUP_SIZES else None
    return next((size for size in GROUP_SIZES if weight.columns % size == 0), None)


def _repack(weight: PackedWeight) -> tuple[Tensor, int, Tensor]:
    """The weight in torch's layout, its group size, and scales and zero points ``[K / group, N, 2]`` in bf16."""
    group = _kernel_group(weight)
    assert group is not None
    repack = _repack_wide if _is_wide() else _repack_any
    blocks = [repack(rows) for rows in weight.integers.split(REPACKED_ROWS)]
    scales = torch.zeros(weight.columns // group, weight.rows, 2, dtype=torch.bfloat16)
    scales[..., 0] = weight.scale.view(weight.rows, -1).T
    return torch.cat(blocks), group, scales


def _repack_any(packed: Tensor) -> Tensor:
    """Rows ``[n, K / 2]`` in torch's layout for the CPU in hand; takes an int32 for each weight on the way."""
    return torch._convert_weight_to_int4pack_for_cpu(unpack_int4(packed).int() + 8, 1)


def _repack_wide(packed: Tensor) -> Tensor:
    """The same for the layout of CPUs with AVX-512, in less time and memory.

    There a column of 64 rows is 32 bytes: byte i has row i in its low nibble and row i + 32 in its high one.
    """
    columns = (packed.view(torch.uint8) ^ 0x88).unflatten(0, (-1, ROW_BLOCK)).transpose(1, 2).contiguous()
    front, back = columns.chunk(2, dim=-1)  # [blocks, K / 2, 32]
    repacked = torch.empty(*front.shape[:2], 2, front.shape[2], dtype=torch.uint8)
    torch.bitwise_or(front >> 4, back & 0xF0, out=repacked[:, :, 0])
    torch.bitwise_or(front & 0xF, back << 4, out=repacked[:, :, 1])
    return repacked.view(packed.shape)


@functools.cache
def _is_wide() -> bool:
    """Whether torch lays weights out here as `_repack_wide` does; torch promises nothing, so that it is tried."""
    packed = torch.randint(-128, 128, (ROW_BLOCK, 16), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    return torch.equal(_repack_any(packed), _repack_wide(packed))
