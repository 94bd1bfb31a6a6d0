"""Which backend multiplies with a quantized weight.

    triton   decoding and training on a GPU, in fp16 and bf16
    cpu      torch's own INT4 and INT8 products, in bf16
    torch    unpacks the weight, then multiplies: everything else

Compression and extraction on a GPU go through cpm_kernels (`cpm`) where it works.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from chatglm2.kernels.availability import runs_triton
from chatglm2.kernels.quantized import cpm
from chatglm2.kernels.quantized.backend import Backend, TorchBackend
from chatglm2.kernels.quantized.cpu import CpuBackend
from chatglm2.kernels.quantized.layout import PackedWeight, pack_int4

logger = logging.getLogger(__name__)


def choose_backend(weight: PackedWeight, dtype: torch.dtype) -> Backend:
    """The fastest backend for a weight, where it lies, and activations of ``dtype``."""
    device = weight.integers.device
    if runs_triton(device, dtype):
        from chatglm2.kernels.quantized.triton_backend import TritonBackend  # here, since it imports Triton

        if TritonBackend.supports(weight):
            return TritonBackend(weight, dtype)
    elif device.type == "cpu" and CpuBackend.supports(weight, dtype):
        return CpuBackend(weight, dtype)
    _say_slow(weight.bits, device.type, str(dtype).removeprefix("torch."))
    return TorchBackend(weight, dtype)


def compress_int4(integers: Tensor) -> Tensor:
    """`pack_int4`, through cpm_kernels where it works."""
    return cpm.compress(integers) if cpm.can_pack(integers) else pack_int4(integers)


@functools.cache
def _say_slow(bits: int, device_type: str, dtype: str) -> None:
    """One line for each kind of weight, however many there are."""
    logger.warning(
        "No fast INT%d product for %s on %s here: weights are unpacked for every step, which is right but slow.",
        bits,
        dtype,
        device_type,
    )
