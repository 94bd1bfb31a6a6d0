"""Which device is computed on, and whether Triton is there and runs on it."""

from __future__ import annotations

import functools
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


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


def computing_on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one of this thread.

    Streams, graphs and events are made on the current one, and a kernel that is launched without saying where runs
    there, wherever its tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
