"""Whether a layer's fused operations run on what is at hand."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from chatglm2.kernels.availability import runs_triton


def find_layer_kernels(x: Tensor) -> ModuleType | None:
    """The fused operations of a layer (`kernels.layer.training`), where they run on activations like ``x``."""
    if not runs_triton(x.device, x.dtype):
        return None
    from chatglm2.kernels.layer import training  # here, since it imports Triton

    return training
