"""Products with quantized weights: one interface, and the backends that it picks from.

    triton   decoding and training on a GPU, in fp16 and bf16
    cpu      torch's own INT4 and INT8 products, in bf16
    torch    unpacks the weight, then multiplies: everything else

Compression and extraction on a GPU go through cpm_kernels (`cpm`) where it works.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from types import ModuleType

import torch
from torch import Tensor

from chatglm2.kernels import cpm
from chatglm2.kernels.backend import Backend, TorchBackend, extract
from chatglm2.kernels.cpu import CpuBackend
from chatglm2.kernels.layout import PackedWeight, dequantize, pack_int4, unpack_int4

__all__ = [
    "Backend",
    "PackedWeight",
    "TorchBackend",
    "choose_backend",
    "compress_int4",
    "dequantize",
    "extract",
    "find_layer_kernels",
    "pack_int4",
    "runs_triton",
    "unpack_int4",
]

logger = logging.getLogger(__name__)


def choose_backend(weight: PackedWeight, dtype: torch.dtype) -> Backend:
    """The fastest backend for a weight, where it lies, and activations of ``dtype``."""
    device = weight.integers.device
    if runs_triton(device, dtype):
        from chatglm2.kernels.triton_backend import TritonBackend  # here, since it imports Triton

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
def find_triton() -> bool:
    """Whether Triton is installed; it comes with torch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def runs_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels run on a device for activations of ``dtype``, which must be half precision."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or not find_triton():
        return False
    # bf16 tensor cores came with compute capability 8.0; before 7.0 Triton compiles nothing.
    return torch.cuda.get_device_capability(device) >= ((8, 0) if dtype == torch.bfloat16 else (7, 0))


def find_layer_kernels(x: Tensor) -> ModuleType | None:
    """The fused operations of a layer (`layer_triton`), where they run on activations like ``x``."""
    if not runs_triton(x.device, x.dtype):
        return None
    from chatglm2.kernels import layer_triton  # here, since it imports Triton

    return layer_triton


@functools.cache
def _say_slow(bits: int, device_type: str, dtype: str) -> None:
    """One line for each kind of weight, however many there are."""
    logger.warning(
        "No fast INT%d product for %s on %s here: weights are unpacked for every step, which is right but slow.",
        bits,
        dtype,
        device_type,
    )
