"""A prefix as one zip, and back: what `bundle.py` names and nothing else.

Knows zips that anybody may have made: how much of one is read, and that what it claims is counted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from chatglm2.errors import PrefixError
from chatglm2.files import open_regular
from chatglm2.model.prefix_files import CANDIDATE_FILES
from training.library.bundle import LIMITS, require_size, write_bundle
from training.library.entry import Origin
from training.library.shelf import Shelf, place_name
from training.runs.checkpoints import CheckpointInfo
from training.runs.storage import explaining_storage_errors, hidden_name

ARCHIVE_SUFFIX = ".zip"
# A zip's list of entries is read as one piece; that of a prefix has some hundred bytes.
LARGEST_READ_BYTES = 2**20
COPIED_BYTES = 2**18


def full_name(info: CheckpointInfo) -> str:
    """Run and step, as a zip and its folder are called."""
    return f"{info.run_name}-{info.path.stem}"


def pack(info: CheckpointInfo, target: Path) -> None:
    """Write a prefix with its card as a zip, which appears complete or not at all.

    Raises:
        PrefixError: the checkpoint holds no prefix that can be read.
        RunError: the zip cannot be written.
    """
    staged = hidden_name(target, "partial")
    with explaining_storage_errors(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".pack-") as folder:
        write_bundle(info, Path(folder))
        try:
            # Weights do not compress; storing them is as small and much faster.
            with zipfile.ZipFile(staged, "x", zipfile.ZIP_STORED) as archive:
                for file in sorted(Path(folder).iterdir()):
                    archive.write(file, f"{full_name(info)}/{file.name}")
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)


def unpack(file: Path, directory: Path) -> None:
    """Write what a zip holds of a prefix into ``directory``, which exists; `check_bundle` says whether it can be used.

    Raises:
        PrefixError: it is no zip, holds no prefix or several, or claims more than a prefix has.
    """
    with _opened(file) as archive:
        for entry in _entries_of_prefix(archive, file.name):
            name = PurePosixPath(entry.filename).name
            with (
                explaining_storage_errors(directory),
                archive.open(entry) as source,
                (directory / name).open("xb") as to,
            ):
                shutil.copyfileobj(source, to, COPIED_BYTES)


def take_zip(shelf: Shelf, file: Path) -> Path:
    """Put the prefix that a zip holds on the shelf, under a name that is free; returns where it lies.

    Raises:
        PrefixError: `unpack` or `check_bundle` refuse it.
        RunError: it cannot be written.
    """
    name = place_name(file.stem)
    with shelf.staging(name) as staged:
        unpack(file, staged)
        return shelf.put(staged, name, Origin(kind="zip", name=file.name[:300]), replace=False)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with _Bounded(open_regular(file)) as opened, zipfile.ZipFile(opened) as archive:
            yield archive
    # What zipfile raises depends on where it stumbles: encrypted entries, unknown methods, wrong sums.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise PrefixError(
            f"{file.name} is no zip that can be read ({reason}). Download the prefix again.",
            f"{file.name} 不是可读取的 zip 文件（{reason}）。请重新下载该前缀。",
        ) from error


def _entries_of_prefix(archive: zipfile.ZipFile, title: str) -> list[zipfile.ZipInfo]:
    """The files of the one prefix in the zip; optimizer states and whatever else lies beside it stay in there."""
    known = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).name in LIMITS]
    folders = {
        PurePosixPath(entry.filename).parent
        for entry in known
        if PurePosixPath(entry.filename).name in CANDIDATE_FILES and not entry.is_dir()
    }
    if len(folders) != 1:
        raise PrefixError(
            f"{title} holds {len(folders)} prefixes, expected one: a folder with one of "
            f"{', '.join(CANDIDATE_FILES[:2])}.",
            f"{title} 中有 {len(folders)} 个前缀，应为一个：含有 {'、'.join(CANDIDATE_FILES[:2])} 的文件夹。",
        )
    chosen = {
        PurePosixPath(entry.filename).name: entry
        for entry in known
        if PurePosixPath(entry.filename).parent in folders and not entry.is_dir()
    }
    for name, entry in chosen.items():
        require_size(name, entry.file_size)  # zipfile gives no more than an entry claims
    return list(chosen.values())


class _Bounded(BufferedReader):
    """A file of which no more is read at a time than a prefix's zip asks for."""

    def __init__(self, file: BufferedReader) -> None:
        super().__init__(file.detach())

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > LARGEST_READ_BYTES:
            raise zipfile.BadZipFile("its list of entries is too long")
        return super().read(wanted)
