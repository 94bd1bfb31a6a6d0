"""Tensors in files that anybody may have written: `.safetensors`, and `.bin` as torch saves it.

Knows what a file may claim about its tensors, and checks it by the headers before anything of their size is allocated.
Runs no code from a file. Does not know which tensors belong into one.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What reading a damaged file raises. Of the weights-only unpickler it depends on where it stumbles.
READING_ERRORS = (
    *(SafetensorError, RuntimeError, OSError, EOFError, MemoryError, ArithmeticError, struct.error),
    *(zipfile.BadZipFile, pickle.UnpicklingError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
)

# What a dictionary of tensors is rebuilt with. The unpickler knows more, such as arrays of any size that a call names.
REBUILDERS = {
    "collections OrderedDict",
    "torch Size",
    "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
STORAGE_TYPE = re.compile(r"torch \w+Storage")


class ImplausibleFileError(Exception):
    """A file that claims more than it holds; ``en`` and ``zh`` say what, as the rest of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.en = en
        self.zh = zh


def open_tensors(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file, mapped from disk and read only when used.

    All of them together are no larger than the file, so whoever copies them needs no more memory than that.

    Args:
        file: a regular file.
        wanted: of which names the tensors are opened.

    Raises:
        ImplausibleFileError: for a file that claims more than it holds, before anything is allocated for it.
        READING_ERRORS: for a file that is damaged.
    """
    if file.suffix == ".safetensors":
        # Its reader refuses ranges that overlap, leave gaps, do not fit their shapes or the file.
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118 - not a dictionary
                if wanted(name):
                    yield name, content.get_tensor(name)
        return
    _check_archive(file)
    content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ImplausibleFileError(
            f"it holds a {kind}, expected a dictionary of tensors", f"内容是 {kind}，应为张量字典"
        )
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    _check_sizes(tensors, file.stat().st_size)
    yield from ((name, tensor) for name, tensor in tensors.items() if wanted(name))


def _check_archive(file: Path) -> None:
    """A `.bin` is a zip whose entries lie in it as they are: compressed ones could unfold to any size."""
    if not zipfile.is_zipfile(file):
        if _is_pickle(file):
            raise ImplausibleFileError(
                "it is in torch's format from before 2020, whose sizes cannot be checked: load it with torch and save "
                "it again",
                "它是 2020 年以前的 torch 格式，无法核对其大小：请用 torch 读取后重新保存",
            )
        raise zipfile.BadZipFile
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, file)
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _check_pickle(archive.read(entry))


def _check_entries(entries: list[zipfile.ZipInfo], file: Path) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ImplausibleFileError(
            "its entries are compressed, which torch never does", "其中的条目经过压缩，而 torch 从不压缩"
        )
    claimed, held = sum(entry.file_size for entry in entries), file.stat().st_size
    if claimed > held:
        raise _claims_more(claimed, held)


def _check_pickle(content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in ("GLOBAL", "STACK_GLOBAL", "INST"):
            continue
        if argument not in REBUILDERS and not STORAGE_TYPE.fullmatch(str(argument)):
            name = str(argument)[:60]
            raise ImplausibleFileError(
                f"it holds something besides tensors ({name})", f"其中除张量外还有其他内容（{name}）"
            )


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _check_sizes(tensors: dict[str, Tensor], held: int) -> None:
    claimed = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            kind = str(tensor.layout).removeprefix("torch.")
            raise ImplausibleFileError(
                f"{name[:80]} is no plain tensor ({kind}, {tensor.device.type})",
                f"{name[:80]} 不是普通张量（{kind}，{tensor.device.type}）",
            )
        size = math.prod(tensor.shape) * tensor.element_size()
        if size > tensor.untyped_storage().nbytes():  # one number under many positions, say
            raise _claims_more(size, tensor.untyped_storage().nbytes())
        claimed += size
    if claimed > held:
        raise _claims_more(claimed, held)


def _claims_more(claimed: int, held: int) -> ImplausibleFileError:
    return ImplausibleFileError(
        f"its tensors claim {claimed:,} bytes, but only {held:,} are there",
        f"其中的张量声称占 {claimed:,} 字节，实际只有 {held:,} 字节",
    )
