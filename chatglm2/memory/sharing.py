"""One copy of a checkpoint's weights on a device, whichever processes use them.

Whoever loads a checkpoint first fills a block of memory and hands it to every process of the same user that asks;
whoever has mapped it hands it on too, so that the copy lives until the last one has gone. Nobody can change it: on a
GPU a write fails, on a CPU it reaches a private copy of the page.

Knows tensors by name, and blocks of bytes. Does not know how weights get from files into them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from chatglm2.memory import peers
from chatglm2.memory.driver import DriverError, PagedMemory, close_descriptor, has_virtual_memory

logger = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS = "weights"
# A file in memory that nobody can cut, lengthen or map for writing any more (F_SEAL_FUTURE_WRITE is 16 on Linux).
SEALS = 0x0002 | 0x0004 | 0x0010
ALIGNMENT = 256  # bytes; what kernels that load 16 at a time, and torch, may rely on


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a block."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        count = self.dtype.itemsize
        for length in self.shape:
            count *= length
        return count


class Layout:
    """Where each tensor lies, and how long the block is.

    Args:
        tensors: shape and dtype by name; order matters.
    """

    def __init__(self, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        self.places: dict[str, Place] = {}
        self.size = 0
        for name, (shape, dtype) in tensors.items():
            place = Place(self.size, shape, dtype)
            self.places[name] = place
            self.size += -(-place.size // ALIGNMENT) * ALIGNMENT

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors in ``block``, uint8 ``[size or more]``."""
        return {
            name: block[place.offset : place.offset + place.size].view(place.dtype).view(place.shape)
            for name, place in self.places.items()
        }

    @property
    def fingerprint(self) -> str:
        """Equal for equal layouts."""
        listed = [(name, place.offset, place.shape, str(place.dtype)) for name, place in self.places.items()]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


class Block(Protocol):
    """Memory that may be handed to other processes.

    Attributes:
        bytes: all of it as uint8.
        descriptor: a file descriptor of it, which stays this process's own.
    """

    bytes: Tensor
    descriptor: int

    def protect(self) -> None:
        """End writing: what is in it stays."""


class GpuBlock:
    """A block in a GPU's memory; see `chatglm2.memory.driver`."""

    def __init__(self, size: int, device: torch.device, descriptor: int | None = None) -> None:
        self._memory = PagedMemory(size, device)
        whole = self._memory.size
        if descriptor is None:
            self.descriptor = self._memory.map_exported(0, whole)
        else:
            self._memory.map_shared(0, whole, descriptor)
            self.descriptor = descriptor
        self.bytes = self._memory.tensor()

    def protect(self) -> None:
        torch.cuda.synchronize(self._memory.device)
        self._memory.protect()


class CpuBlock:
    """A block in memory that is a file without a name; what a process writes to it once it is filled is its own."""

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self._size = max(size, mmap.PAGESIZE)
        filling = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("chatglm2-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, self._size)
        self.descriptor = descriptor
        self.bytes = self._map(shared=filling)

    def protect(self) -> None:
        import fcntl  # Windows has none, and shares nothing

        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)
        self.bytes = self._map(shared=False)

    def _map(self, *, shared: bool) -> Tensor:
        path = f"/proc/self/fd/{self.descriptor}"
        return torch.from_file(path, shared=shared, size=self._size, dtype=torch.uint8)


@dataclass(frozen=True)
class WeightsKey:
    """What must be equal for two processes to use the same weights.

    Attributes:
        files: the checkpoint's weight files, resolved.
        dtype, bits, group_size: what they become when they are loaded.
        device: where.
    """

    files: tuple[Path, ...]
    dtype: torch.dtype
    bits: int
    group_size: int | None
    device: torch.device

    @property
    def name(self) -> str:
        """A folder's name: files count with their size and time, so a replaced checkpoint is another one."""
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        facts = [FORMAT, stats, str(self.dtype), self.bits, self.group_size, device_name(self.device)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def device_name(device: torch.device) -> str:
    """A device as every process on the machine knows it, whatever it numbers it."""
    if device.type != "cuda":
        return device.type
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


def why_not(device: torch.device) -> tuple[str, str] | None:
    """Why weights cannot be shared here, in English and Chinese; None where they can."""
    if not peers.can_talk():
        return (
            "Processes cannot share weights on this system: each loads its own copy.",
            "此系统不支持进程间共享权重：每个进程各自加载一份。",
        )
    try:
        peers.runtime_directory()
    except OSError as error:
        return (
            f"Weights are not shared with other processes: {error}. Each loads its own copy.",
            f"无法与其他进程共享权重：{error}。每个进程各自加载一份。",
        )
    if device.type == "cpu" or has_virtual_memory(device):
        return None
    return (
        f"{device} cannot share memory between processes (as under WSL): each loads its own copy of the weights.",
        f"{device} 不支持进程间共享显存（例如在 WSL 中）：每个进程各自加载一份权重。",
    )


class SharedWeights:
    """Weights in a block that others may map, offered for as long as this object lives.

    Attributes:
        tensors: the weights by name.
        mapped: whether they came from another process, so that nothing was loaded.
    """

    def __init__(self, block: Block, layout: Layout, directory: Path, *, mapped: bool) -> None:
        self.tensors = layout.views(block.bytes)
        self.mapped = mapped
        self.size = layout.size
        fingerprint, descriptor = layout.fingerprint, block.descriptor

        def hand_out(connection: peers.Connection) -> None:
            connection.send({"fingerprint": fingerprint}, [descriptor])

        self._listener = peers.Listener(directory, hand_out)
        weakref.finalize(self, close_descriptor, descriptor)  # an open one would keep the memory, used or not


def share_weights(
    key: WeightsKey, layout: Layout, fill: Callable[[dict[str, Tensor]], None], check: Callable[[], None]
) -> SharedWeights:
    """The weights of ``key``: mapped where a process has them, else loaded and offered.

    Of several processes that come at once one loads, and the others wait for it.

    Args:
        key: which weights.
        layout: of the block.
        fill: puts them into the tensors it is given.
        check: raises if there is no memory to load them.
    """
    directory = peers.subject_directory(WEIGHTS, key.name)
    with peers.alone_with(directory):
        found = _find(directory, layout, key.device)
        if found is not None:
            return SharedWeights(found, layout, directory, mapped=True)
        check()
        block: Block = GpuBlock(layout.size, key.device) if key.device.type == "cuda" else CpuBlock(layout.size)
        fill(layout.views(block.bytes))
        block.protect()
        return SharedWeights(block, layout, directory, mapped=False)


def _find(directory: Path, layout: Layout, device: torch.device) -> Block | None:
    for connection in peers.connections(directory):
        with connection:
            try:
                message, descriptors = connection.receive(peers.ANSWER_SECONDS)
                if message.get("fingerprint") == layout.fingerprint and len(descriptors) == 1:
                    return _open(descriptors[0], layout, device)
                _close_all(descriptors)
            except (OSError, DriverError) as error:
                logger.info("Weights that another process offers cannot be mapped: %s", error)
    return None


def _open(descriptor: int, layout: Layout, device: torch.device) -> Block:
    try:
        return GpuBlock(layout.size, device, descriptor) if device.type == "cuda" else CpuBlock(layout.size, descriptor)
    except BaseException:
        close_descriptor(descriptor)
        raise


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        close_descriptor(descriptor)
