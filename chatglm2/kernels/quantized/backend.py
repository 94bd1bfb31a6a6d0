"""What a backend is, and the one that plain torch makes.

A backend is a packed weight made ready for one way of multiplying. It knows nothing of modules and autograd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from chatglm2.kernels.quantized import cpm
from chatglm2.kernels.quantized.layout import PackedWeight, dequantize


class Backend(ABC):
    """Products with one packed weight ``[N, K]``."""

    name: str

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        self.weight = weight
        self.dtype = dtype

    def serves(self, integers: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
        """Whether it was made for these very tensors, and activations of ``dtype``."""
        return self.weight.integers is integers and self.weight.scale is scale and self.dtype == dtype

    @abstractmethod
    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ weight.T + bias``: ``[M, K]`` to ``[M, N]``."""

    @abstractmethod
    def input_gradient(self, gradient: Tensor) -> Tensor:
        """``gradient @ weight``: ``[M, N]`` to ``[M, K]``."""


class TorchBackend(Backend):
    """Unpacks the whole weight for every product: right everywhere, and fast where there are many rows."""

    name = "torch"

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.dense(), bias)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        return gradient @ self.dense()

    def dense(self) -> Tensor:
        """The weight ``[N, K]`` in the activations' dtype."""
        return extract(self.weight).to(self.dtype)


def extract(weight: PackedWeight) -> Tensor:
    """`dequantize`, through cpm_kernels where it works."""
    if cpm.can_extract(weight.integers, weight.scale):
        return cpm.extract(weight.integers, weight.scale, weight.bits)
    return dequantize(weight)
