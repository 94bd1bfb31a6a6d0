"""A GPU's memory through the driver's virtual memory: addresses that stay, pages that come, go and are shared.

An address range is reserved once and costs nothing; pages are put under it when they are used and taken away when they
are not, and whoever knows the addresses, a captured graph too, goes on with them. Pages leave the process as a file
descriptor, and live until the last process that holds them has closed them, however the others ended.

Knows bytes and pages; knows no tensors' meaning. The calls are those of CUDA's driver API, section "Virtual Memory
Management", by NVIDIA's own bindings, which come with torch's CUDA builds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import weakref
from typing import Any

import torch
from torch import Tensor


class DriverError(Exception):
    """A call of the driver that failed; the message is its name and the driver's own word."""


def _call(function: Any, *arguments: Any) -> Any:
    """The values of a driver call: none, one or several."""
    status, *values = function(*arguments)
    if int(status) != 0:
        name = getattr(status, "name", str(status))
        if name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise torch.OutOfMemoryError(f"CUDA out of memory: {function.__name__}")
        raise DriverError(f"{function.__name__}: {name}")
    return values[0] if len(values) == 1 else tuple(values)


def _driver() -> Any:
    from cuda.bindings import driver  # here, since only torch's CUDA builds bring it

    return driver


@functools.cache
def has_virtual_memory(device: torch.device) -> bool:
    """Whether a GPU's memory can be managed so, and handed on as a file descriptor: not on Windows' subsystem, say."""
    if device.type != "cuda" or sys.platform != "linux" or importlib.util.find_spec("cuda") is None:
        return False
    if importlib.util.find_spec("cuda.bindings") is None:
        return False
    driver = _driver()
    torch.zeros(1, device=device)  # a context
    attribute = driver.CUdevice_attribute
    wanted = (
        attribute.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        attribute.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
    )
    try:
        handle = _call(driver.cuDeviceGet, _index(device))
        return all(_call(driver.cuDeviceGetAttribute, item, handle) for item in wanted)
    except DriverError:
        return False


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _location(device: torch.device) -> Any:
    driver = _driver()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = _index(device)
    properties.requestedHandleTypes = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    return properties


@functools.cache
def page_bytes(device: torch.device) -> int:
    """The smallest piece that memory comes in: 2 MiB on today's GPUs."""
    driver = _driver()
    minimum = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    return int(_call(driver.cuMemGetAllocationGranularity, _location(device), minimum))


def whole_pages(size: int, device: torch.device) -> int:
    """``size`` rounded up to pages."""
    page = page_bytes(device)
    return -(-size // page) * page


class _Array:
    """What torch asks of foreign memory; it keeps this object for as long as it uses the memory."""

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "strides": None,
        }


class PagedMemory:
    """A reserved range of addresses on a GPU, with memory under those parts of it that are used.

    Args:
        size: bytes to reserve, rounded up to whole pages; they cost nothing until they are mapped.
        device: of the memory.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        torch.zeros(1, device=device)  # a context
        self.device = torch.device("cuda", _index(device))
        self.size = whole_pages(size, device)
        driver = _driver()
        self._pieces: dict[int, int] = {}  # size by offset of what is mapped
        self._address = int(_call(driver.cuMemAddressReserve, self.size, 0, 0, 0))
        self._release = weakref.finalize(self, _give_back, self._address, self.size, self._pieces)
        self._release.atexit = False  # the driver may be gone by then, and takes all with it

    @property
    def mapped_bytes(self) -> int:
        """Memory that is under the addresses now."""
        return sum(self._pieces.values())

    def tensor(self) -> Tensor:
        """The whole range as uint8 ``[size]``; only mapped parts may be touched."""
        array = _Array(self._address, self.size, self)
        return torch.as_tensor(array, device=self.device)

    def map(self, offset: int, size: int) -> None:
        """Put fresh memory, of unknown content, under ``size`` bytes from ``offset``; both whole pages."""
        driver = _driver()
        handle = _call(driver.cuMemCreate, size, _location(self.device), 0)
        try:
            self._put(offset, size, handle)
        finally:
            _call(driver.cuMemRelease, handle)  # it lives for as long as it is mapped

    def map_shared(self, offset: int, size: int, descriptor: int, *, writable: bool = False) -> None:
        """As `map`, with memory that came from another process as ``descriptor``."""
        driver = _driver()
        kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        handle = _call(driver.cuMemImportFromShareableHandle, descriptor, kind)
        try:
            self._put(offset, size, handle, writable=writable)
        finally:
            _call(driver.cuMemRelease, handle)

    def map_exported(self, offset: int, size: int) -> int:
        """As `map`; returns a file descriptor by which other processes may map the same memory."""
        driver = _driver()
        handle = _call(driver.cuMemCreate, size, _location(self.device), 0)
        try:
            self._put(offset, size, handle)
            kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
            return int(_call(driver.cuMemExportToShareableHandle, handle, kind, 0))
        finally:
            _call(driver.cuMemRelease, handle)

    def unmap(self, offset: int) -> None:
        """Take back the memory that was mapped at ``offset``. Work on the device must have left it."""
        size = self._pieces.pop(offset)
        _call(_driver().cuMemUnmap, self._address + offset, size)

    def protect(self) -> None:
        """Let nothing write what is mapped: a kernel that tries fails with an illegal address."""
        for offset, size in self._pieces.items():
            self._allow(offset, size, writable=False)

    def _put(self, offset: int, size: int, handle: Any, *, writable: bool = True) -> None:
        _call(_driver().cuMemMap, self._address + offset, size, 0, handle, 0)
        self._pieces[offset] = size
        self._allow(offset, size, writable=writable)

    def _allow(self, offset: int, size: int, *, writable: bool) -> None:
        driver = _driver()
        access = driver.CUmemAccessDesc()
        access.location = _location(self.device).location
        flags = driver.CUmemAccess_flags
        access.flags = flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE if writable else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
        _call(driver.cuMemSetAccess, self._address + offset, size, [access], 1)


def _give_back(address: int, size: int, pieces: dict[int, int]) -> None:
    driver = _driver()
    for offset, length in pieces.items():
        driver.cuMemUnmap(address + offset, length)
    driver.cuMemAddressFree(address, size)


def close_descriptor(descriptor: int) -> None:
    """Let go of exported memory that is mapped or not needed; closing one twice is no mistake."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
