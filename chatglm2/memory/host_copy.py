"""A tensor's copy to the host, which does not wait for it before it is needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host; on the host already, it is the tensor itself."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:  # only a copy into pinned memory leaves the host free
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Any]:
        """Its values; waits for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[Any] = self._tensor.tolist()
        return values
