"""Writing so that a crash, a full disk or a second reader never meets half a file; reading what may be anything.

Knows files; does not know what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from chatglm2.errors import RunError
from chatglm2.files import read_regular

logger = logging.getLogger(__name__)
# With less than this a checkpoint or an export cannot be written, whatever a library calls the reason.
FULL_DISK_BYTES = 2**20
# What describes a run or a checkpoint has some kilobytes.
SMALL_FILE_BYTES = 2**20


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by a file with ``text``: readers see the old content or the new, nothing else."""
    write_together({path: text})


def write_together(contents: Mapping[Path, str]) -> None:
    """Replace files by new ones that belong together: all are safely on disk before the first takes its place."""
    staged = {path: hidden_name(path, "partial") for path in contents}
    try:
        for path, text in contents.items():
            with staged[path].open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in staged.items():
            temporary.replace(path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def read_json(path: Path, limit_bytes: int = SMALL_FILE_BYTES) -> Any:
    """What a JSON file holds that should be small.

    Raises:
        OSError: if it is not there, cannot be read, is no file or is larger than ``limit_bytes``.
        ValueError: if it is no JSON.
    """
    return from_json(read_regular(path, limit_bytes))


def publish_directory(staged: Path, target: Path) -> None:
    """Move a complete directory to its place, its content safely on disk first; what was there before is replaced."""
    for item in staged.rglob("*"):
        if item.is_file():
            _sync(item)
    if target.exists():
        remove_directory(target)
    staged.rename(target)
    _sync(target.parent)


def remove_directory(path: Path) -> None:
    """Delete a directory; it is out of sight at once, even where deleting takes time or is cut off."""
    hidden = hidden_name(path, "deleted")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def hidden_name(path: Path, kind: str) -> Path:
    """A name beside ``path`` that nobody else uses, whichever thread, process or machine asks."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.{kind}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explaining_storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's complaint about ``path`` into a sentence."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> RunError:
    """The sentence for a file or directory that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"There is no space left for {path}. Free some space (old checkpoints can be deleted), then resume.",
            f"磁盘空间不足，无法写入 {path}。请清理空间（可删除旧检查点）后继续训练。",
        )
    if error.errno == errno.EROFS:
        return RunError(
            f"{path} lies on a disk that can only be read. Choose a place that can be written, or mount it writable.",
            f"{path} 所在的磁盘是只读的。请换一个可写入的位置，或将其挂载为可写。",
        )
    reason = error.strerror or type(error).__name__
    return RunError(
        f"{path} cannot be written ({reason}). Check that the directory exists and that you may write to it.",
        f"无法写入 {path}（{reason}）。请确认目录存在且有写入权限。",
    )


def library_storage_error(path: Path, error: Exception) -> RunError:
    """The sentence for what torch or safetensors could not write; their own words go to the log.

    They do not hand on the operating system's number, so the disk is asked instead.
    """
    logger.error("%s could not be written: %s", path, error)
    place = next((place for place in (path, *path.parents) if place.exists()), path)
    with contextlib.suppress(OSError):
        if shutil.disk_usage(place).free < FULL_DISK_BYTES or "No space left" in str(error):
            return storage_error(path, OSError(errno.ENOSPC, ""))
    return RunError(
        f"{path} could not be written. Check that its disk has space and can be written; the log says what was tried.",
        f"无法写入 {path}。请检查磁盘是否有剩余空间、是否可写；日志中有详细信息。",
    )
