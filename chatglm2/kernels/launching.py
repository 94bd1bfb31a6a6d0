"""How Triton kernels follow one another on a GPU: one at a time, or overlapping (programmatic dependent launch).

Between two kernels that only follow one another, the card stands idle for about as long as a small kernel runs. Since
Hopper, a kernel's programs may be placed while the last ones of the kernel before still run, and wait there. Knows
launches; knows no kernel.

Measured on an H100: starting the next kernel at the beginning of a product costs more than it saves, and so does
bringing a product's weights into the cache while it waits; a product lets the next kernel start when it has read all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from chatglm2.kernels.availability import computing_on

FIRST_CAPABLE = (9, 0)

_overlapping: ContextVar[bool] = ContextVar("overlapping", default=False)


@contextmanager
def overlapping_launches(device: torch.device) -> Iterator[None]:
    """Kernels that are launched inside overlap, if the card can."""
    token = _overlapping.set(torch.cuda.get_device_capability(device) >= FIRST_CAPABLE)
    try:
        yield
    finally:
        _overlapping.reset(token)


def launch_options() -> dict[str, Any]:
    """Keyword arguments for the launch of a kernel that takes ``OVERLAPS``."""
    return {"OVERLAPS": True, "launch_pdl": True} if _overlapping.get() else {"OVERLAPS": False}


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Launch for the GPU that holds ``x``, which need not be the current one; Triton's interpreter needs none."""
    return computing_on(x.device)


@triton.jit
def let_next_start(OVERLAPS: tl.constexpr):
    """The next kernel may start once all programs of this one have come here."""
    if OVERLAPS:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(OVERLAPS: tl.constexpr):
    """Wait until the kernel before has ended. Every kernel does, before it reads what another wrote, and writes."""
    if OVERLAPS:
        gdc_wait()
