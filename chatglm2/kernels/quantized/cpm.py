"""Compression and extraction on the GPU through cpm_kernels' launcher, the role it has in the original.

The kernels that cpm_kernels ships are built for sm_61 to sm_86 and fail elsewhere. So its launcher runs `packing.cu`,
which NVRTC compiles for the card in hand when it is first needed.

Importing cpm_kernels loads CUDA's libraries, warns and, without a GPU, raises: hence lazily, and with its noise kept
away from the user.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import logging
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("packing.cu")
THREADS = 256
WORD_BYTES = 4
_TYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Launcher(NamedTuple):
    """The parts of cpm_kernels that we use."""

    cuda_runtime: Any
    nvrtc: Any
    module_class: Any
    function_class: Any


@functools.cache
def find_launcher() -> Launcher | None:
    """cpm_kernels, or None where it does not work; says why once."""
    if not torch.cuda.is_available():
        return None
    try:
        with _quiet_import():
            from cpm_kernels.kernels.base import KernelFunction, LazyKernelCModule
            from cpm_kernels.library import cudart, nvrtc
        if nvrtc.version == (0, 0):
            raise RuntimeError("it finds no NVRTC library")
    except Exception as error:  # whatever it raises while it loads CUDA's libraries, we can do without it
        logger.info("cpm_kernels does not work here (%s); weights are unpacked another way.", error)
        return None
    return Launcher(cudart, nvrtc, LazyKernelCModule, KernelFunction)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Import cpm_kernels without its warnings, and let it find the CUDA libraries that came with torch."""
    noisy = logging.getLogger("cpm_kernels")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), mock.patch.object(ctypes.util, "find_library", _find_library):
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)


def _find_library(name: str, system: Callable[[str], str | None] = ctypes.util.find_library) -> str | None:
    """What the system finds, else what pip installed beside torch."""
    if found := system(name):
        return found
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    return next((str(path) for path in sorted(packages.glob(f"*/lib/lib{name}.so*"))), None)


@functools.cache
def _compile(architecture: str) -> Any:
    """`packing.cu` as a module for one architecture such as ``sm_90``."""
    launcher = find_launcher()
    assert launcher is not None
    nvrtc = launcher.nvrtc
    program = nvrtc.nvrtcProgram()
    nvrtc.nvrtcCreateProgram(program, SOURCE.read_text(encoding="utf-8"), SOURCE.name, 0, [], [])
    try:
        nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={architecture}"])
        code = ctypes.create_string_buffer(nvrtc.nvrtcGetCUBINSize(program))
        nvrtc.nvrtcGetCUBIN(program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return launcher.module_class(code.raw)


@functools.cache
def _function(name: str, architecture: str) -> Any:
    launcher = find_launcher()
    assert launcher is not None
    return launcher.function_class(_compile(architecture), name)


def _launch(name: str, device: torch.device, words: int, *parameters: Any) -> None:
    launcher = find_launcher()
    assert launcher is not None
    major, minor = torch.cuda.get_device_capability(device)
    with torch.cuda.device(device):
        launcher.cuda_runtime.cudaSetDevice(torch.cuda.current_device())  # its runtime need not be torch's
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid = ((words + THREADS - 1) // THREADS, 1, 1)
        _function(name, f"sm_{major}{minor}")(grid, (THREADS, 1, 1), 0, stream, list(parameters))


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def can_pack(values: Tensor) -> bool:
    """Whether `compress` takes these integers."""
    return values.is_cuda and values.is_contiguous() and values.shape[-1] % 8 == 0 and find_launcher() is not None


def can_extract(weight: Tensor, scale: Tensor) -> bool:
    """Whether `extract` takes this weight."""
    return (
        weight.is_cuda
        and weight.is_contiguous()
        and scale.is_contiguous()
        and scale.dtype in _TYPE_NAMES
        and weight.numel() % (WORD_BYTES * scale.numel()) == 0
        and find_launcher() is not None
    )


def compress(values: Tensor) -> Tensor:
    """INT4 values ``[out, in]`` (int8) packed, ``[out, in / 2]``."""
    packed = torch.empty(*values.shape[:-1], values.shape[-1] // 2, dtype=torch.int8, device=values.device)
    words = packed.numel() // WORD_BYTES
    _launch("compress_int4", values.device, words, _address(values), _address(packed), ctypes.c_longlong(words))
    return packed


def extract(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The dense weight ``[out, in]`` in the dtype of ``scale``."""
    columns = weight.shape[1] * 8 // bits
    dense = torch.empty(weight.shape[0], columns, dtype=scale.dtype, device=weight.device)
    words = weight.numel() // WORD_BYTES
    _launch(
        f"extract_int{bits}_{_TYPE_NAMES[scale.dtype]}",
        weight.device,
        words,
        _address(weight),
        _address(scale),
        _address(dense),
        ctypes.c_longlong(words),
        ctypes.c_int(words // scale.numel()),
    )
    return dense
