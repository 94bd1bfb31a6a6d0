"""Where uploads lie, and what becomes of those that are too much, of a wrong kind, or were never finished.

Each page has a folder of its own, which nobody else on the machine may open, and which the next page removes where this
one could not. Knows ASGI and how Gradio stores what it receives; reads no file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm2.errors import ChatGLMError
from training.data.files import SUFFIXES
from training.library.archive import ARCHIVE_SUFFIX
from training.runs.storage import explaining_storage_errors, storage_error

UPLOAD_ROUTE = "/upload"
GRADIO_FOLDER = "GRADIO_TEMP_DIR"
QUOTA_BYTES = 2 * 2**30
# Older uploads make room for new ones: a run has its own copy of what it trains on.
KEPT_SECONDS = 3600.0
# An upload that has written nothing for this long is over, however it ended.
STALLED_SECONDS = 600.0
LOCK_SUFFIX = ".lock"


class UploadError(ChatGLMError):
    """An upload that is not taken."""


def prepare_uploads(root: Path) -> FileLock:
    """Makes this page's own folder below ``root`` and tells Gradio of it; the lock that comes back keeps it.

    What pages left there that are gone, killed ones among them, is removed. Call it before any component is built: each
    notes where its files lie.

    Raises:
        RunError: the folder cannot be written.
    """
    with explaining_storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)  # what users upload is theirs: other accounts on this machine may not read it
        _remove_abandoned(root)
        folder = root / f"page-{secrets.token_hex(6)}"
        lock = FileLock(folder.with_suffix(LOCK_SUFFIX))
        lock.acquire(timeout=0)
        folder.mkdir(mode=0o700)
    os.environ[GRADIO_FOLDER] = str(folder)
    return lock


def discard_uploads(lock: FileLock) -> None:
    """Removes a page's folder as it closes."""
    file = Path(lock.lock_file)
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)
    lock.release()
    file.unlink(missing_ok=True)


def scratch_folder() -> Path:
    """Where a page's temporary files lie: beside the uploads, and removed with them."""
    return Path(os.environ.get(GRADIO_FOLDER) or tempfile.gettempdir())


def _remove_abandoned(root: Path) -> None:
    for item in root.iterdir():
        if item.suffix == LOCK_SUFFIX:
            continue
        lock = FileLock(item.with_suffix(LOCK_SUFFIX))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)
        except Timeout:  # another page is there, and uses it
            continue
        Path(lock.lock_file).unlink(missing_ok=True)


class UploadGate:
    """ASGI middleware around Gradio's upload route: a quota, allowed kinds, and no leftovers."""

    def __init__(self, app: ASGIApp, quota_bytes: int = QUOTA_BYTES) -> None:
        self.app = app
        self.quota_bytes = quota_bytes
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(UPLOAD_ROUTE)
        if not is_upload:
            await self.app(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._upload(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is there to be told
        except ChatGLMError as error:
            await _refuse(error, 413)(scope, receive, send)
        except OSError as error:
            await _refuse(storage_error(scratch_folder(), error), 507)(scope, receive, send)
        finally:
            self._under_way -= 1
            _remove_unfinished(scratch_folder(), all_of_them=self._under_way == 0)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        room = self.quota_bytes - _make_room(scratch_folder(), self.quota_bytes)
        room -= int(Headers(scope=scope).get("content-length") or 0)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if room < 0 or received > self.quota_bytes:
                raise _no_room(self.quota_bytes)
            return message

        start: Message = {}
        body = bytearray()

        async def checked(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            if start["status"] == 200:
                _require_kinds(bytes(body))
            await send(start)
            await send({"type": "http.response.body", "body": bytes(body)})

        await self.app(scope, counted, checked)


def _refuse(error: ChatGLMError, status: int) -> PlainTextResponse:
    return PlainTextResponse(f"{error.zh}\n{error.en}", status_code=status)


def _no_room(quota_bytes: int) -> UploadError:
    mib = quota_bytes // 2**20
    return UploadError(
        f"All uploads of the last hour together may take {mib:,} MiB. Try again later, or start the page with "
        "--data-dir and name the file instead.",
        f"最近一小时内的上传合计不得超过 {mib:,} MiB。"
        "请稍后再试，或在启动页面时用 --data-dir 指定目录，直接填写文件路径。",
    )


def _require_kinds(answer: bytes) -> None:
    """Takes files of other kinds away again, and says so."""
    stored = [Path(str(path)) for path in json.loads(answer)]
    wrong = [file for file in stored if file.suffix.lower() not in (*SUFFIXES, ARCHIVE_SUFFIX)]
    if not wrong:
        return
    for file in stored:
        file.unlink(missing_ok=True)
    listed = ", ".join(SUFFIXES)
    raise UploadError(
        f"{wrong[0].name[:80]} is not a data file: expected a name that ends in {listed}, or in {ARCHIVE_SUFFIX} for a "
        "prefix.",
        f"{wrong[0].name[:80]} 不是数据文件：文件名应以 {listed} 结尾，前缀则为 {ARCHIVE_SUFFIX}。",
    )


def _make_room(folder: Path, quota_bytes: int) -> int:
    """Bytes that uploads take, after those that nobody needs any more went where there are too many."""
    files = sorted(_uploaded(folder), key=lambda item: item[1].st_mtime)
    held = sum(state.st_size for _, state in files)
    for file, state in files:
        if held <= quota_bytes // 2 or time.time() - state.st_mtime < KEPT_SECONDS:
            break
        file.unlink(missing_ok=True)
        held -= state.st_size
    return held


def _uploaded(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for file in folder.rglob("*"):
        try:
            state = file.stat()
        except OSError:  # it has gone meanwhile
            continue
        if file.is_file():
            yield file, state


def _remove_unfinished(folder: Path, *, all_of_them: bool) -> None:
    """Gradio writes into the folder itself and moves what is complete to a folder below; what stays was cut off."""
    for file in folder.glob("*"):
        try:
            stalled = time.time() - file.stat().st_mtime > STALLED_SECONDS
            if file.is_file() and (all_of_them or stalled):
                file.unlink()
        except OSError:
            continue
