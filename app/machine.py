"""What the machine has: its device and its memory. Knows nothing of models."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Memory:
    used: int  # bytes
    free: int  # bytes


def read_memory(device: str) -> Memory:
    """Memory of the device that the model is on: the GPU's own, or the machine's."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(torch.device(device))
        return Memory(used=total - free, free=free)
    machine = psutil.virtual_memory()
    return Memory(used=machine.total - machine.available, free=machine.available)


def describe_device(device: str) -> str:
    """The device as a person would say it: the GPU's name, or the CPU with its cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU × {psutil.cpu_count(logical=True)}"


def missing_gpu(device: str) -> str | None:
    """The word for what a machine lacks whose model is on the CPU; None where it is there by choice, or on a GPU."""
    if not device.startswith("cpu"):
        return None
    import torch

    if torch.cuda.is_available():
        return None
    return "no_apple_gpu" if sys.platform == "darwin" else "no_gpu"
