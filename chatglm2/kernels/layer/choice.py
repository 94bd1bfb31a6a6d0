"""Whether a layer's fused operations run on what is at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from chatglm2.kernels.availability import runs_triton


class LayerKernels(NamedTuple):
    """The fused operations of a layer whose tokens are computed together; see `gate` and `rotation`."""

    gate: Callable[[Tensor], Tensor]
    gate_gradient_: Callable[[Tensor, Tensor], Tensor]
    rotate_and_join: Callable[[Tensor, Tensor, Tensor | None, int], tuple[Tensor, Tensor, Tensor]]


def find_layer_kernels(x: Tensor) -> LayerKernels | None:
    """The fused operations, where they run on activations like ``x``."""
    return _load() if runs_triton(x.device, x.dtype) else None


@functools.cache
def _load() -> LayerKernels:
    from chatglm2.kernels.layer import gate, rotation  # here, since they import Triton

    return LayerKernels(gate.gate, gate.gate_gradient_, rotation.rotate_and_join)
