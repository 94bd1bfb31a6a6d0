"""Writing so that a crash, a full disk or a second reader never meets half a file; reading what may be anything.

Knows files; does not know what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic_core import from_json

from chatglm2.errors import RunError
from chatglm2.files import read_regular

logger = logging.getLogger(__name__)
# With less than this a checkpoint or an export cannot be written, whatever a library calls the reason.
FULL_DISK_BYTES = 2**20
# What describes a run or a checkpoint has some kilobytes.
SMALL_FILE_BYTES = 2**20
# Reading and replacing a small file takes milliseconds, on a disk that is busy with a checkpoint up to some seconds.
CHANGE_SECONDS = 60.0
WORKSPACE_LOCK = ".lock"
PARTIAL, DELETED, REPLACED = "partial", "deleted", "replaced"
HIDDEN_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.(?P<kind>partial|deleted|replaced)")


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Be alone in reading ``path`` and replacing it: of two who do so at once, the later would undo the earlier.

    Threads and processes wait for each other, and a process that is killed lets go.

    Raises:
        RunError: somebody keeps it for `CHANGE_SECONDS`.
        OSError: its directory is not there or cannot be written.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file, timeout=CHANGE_SECONDS, poll_interval=0.01)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{path} is being changed by another process, which has not finished for {CHANGE_SECONDS:.0f} s. It may be "
            "suspended: let it go on or end it, and try again.",
            f"{path} 正由另一个进程修改，已有 {CHANGE_SECONDS:.0f} 秒没有完成。该进程可能被挂起："
            "请让它继续或结束它，然后重试。",
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who waits for this one looks for a new one then
        lock.release()


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by a file with ``text``: readers see the old content or the new, nothing else."""
    write_together({path: text})


def write_together(contents: Mapping[Path, str]) -> None:
    """Replace files by new ones that belong together: all are safely on disk before the first takes its place."""
    staged = {path: hidden_name(path, PARTIAL) for path in contents}
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


@contextlib.contextmanager
def workspace_for(target: Path) -> Iterator[Path]:
    """A new directory beside ``target`` for what it is made of, deleted in the end.

    What others left there who were killed while they made ``target`` is deleted first; who still works on it keeps
    theirs.
    """
    for item in target.parent.iterdir():
        named = HIDDEN_NAME.fullmatch(item.name)
        if named and (named["name"], named["kind"]) == (target.name, PARTIAL) and item.is_dir():
            with contextlib.suppress(Timeout, OSError), FileLock(item / WORKSPACE_LOCK, timeout=0):
                shutil.rmtree(item, ignore_errors=True)
    workspace = hidden_name(target, PARTIAL)
    workspace.mkdir()
    try:
        with FileLock(workspace / WORKSPACE_LOCK, timeout=0):
            yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def publish_file(staged: Path, target: Path) -> None:
    """Move a complete file to its place, its content safely on disk first."""
    _sync(staged)
    staged.replace(target)


def publish_directory(staged: Path, target: Path) -> None:
    """Move a complete directory to its place, its content safely on disk first; what was there before is replaced.

    The old one is deleted when the new one is there; `discard_hidden` brings it back after a crash in between.
    """
    for item in staged.rglob("*"):
        if item.is_file() or item.is_dir():
            _sync(item)
    _sync(staged)
    before = hidden_name(target, REPLACED)
    with contextlib.suppress(FileNotFoundError):
        target.rename(before)
    try:
        staged.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise
    try:
        _sync(target.parent)
    except OSError as error:  # it is there, complete; only a power cut could take it away again
        logger.warning("%s may not be safely on disk yet: %s", target, error)
    delete(before)


def remove_directory(path: Path) -> None:
    """Delete a directory; it is out of sight at once, even where deleting takes time or is cut off."""
    hidden = hidden_name(path, DELETED)
    path.rename(hidden)
    delete(hidden)


def delete(path: Path) -> None:
    """Delete whatever is there, as far as it can be; `shutil.rmtree` alone would wait for a pipe's other end."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def discard_hidden(directory: Path) -> None:
    """Delete what was left half done in ``directory`` by somebody who is gone, and finish what was half replaced."""
    for item in directory.iterdir():
        named = HIDDEN_NAME.fullmatch(item.name)
        if named is None:
            continue
        if named["kind"] == REPLACED and not (directory / named["name"]).exists():
            item.rename(directory / named["name"])
        elif item.is_dir() or _age_seconds(item) > CHANGE_SECONDS:  # a younger file may be about to take its place
            delete(item)


def _age_seconds(path: Path) -> float:
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:  # in its place by now
        return 0.0


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
    """Turn a complaint about writing ``path`` into a sentence: the operating system's, or one about the text."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error
    except UnicodeEncodeError as error:
        raise RunError(
            "The text holds half a character (a broken emoji, or bytes that are not UTF-8), which no file can hold. "
            "Delete it, or type it again.",
            "文本中有半个字符（损坏的表情符号，或不是 UTF-8 的字节），无法写入文件。请删除它或重新输入。",
        ) from error


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
