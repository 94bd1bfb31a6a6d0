"""Writing to disk so that a crash, a full disk or a second reader never meets half a file.

Knows files; does not know what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from chatglm2.errors import RunError


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by a file with ``text``: readers see the old content or the new, nothing else."""
    write_together({path: text})


def write_together(contents: Mapping[Path, str]) -> None:
    """Replace files by new ones that belong together: all are safely on disk before the first takes its place."""
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    try:
        for path, text in contents.items():
            with staged[path].open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in staged.items():
            temporary.replace(path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


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
    hidden = path.with_name(f".{path.name}.deleted")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


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
    reason = error.strerror or type(error).__name__
    return RunError(
        f"{path} cannot be written ({reason}). Check that the directory exists and that you may write to it.",
        f"无法写入 {path}（{reason}）。请确认目录存在且有写入权限。",
    )
