"""What is uploaded lies where nobody else looks, is of a kind that can be used, and does not stay for ever."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio.route_utils import upload_fn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web.uploads import KEPT_SECONDS, UploadGate, discard_uploads, prepare_uploads, scratch_folder

QUOTA = 1000


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    lock = prepare_uploads(tmp_path / "uploads")
    yield scratch_folder()
    discard_uploads(lock)


async def upload(request: Request) -> Response:
    """What Gradio's own route does."""
    files, _, _ = await upload_fn(request, str(scratch_folder()), math.inf, None)
    return JSONResponse(files)


@pytest.fixture
def page(uploads: Path) -> TestClient:
    """Gradio's way to store what it receives, behind the gate."""
    gate = Middleware(UploadGate, quota_bytes=QUOTA)
    return TestClient(Starlette(routes=[Route("/gradio_api/upload", upload, methods=["POST"])], middleware=[gate]))


def send(page: TestClient, name: str, content: bytes = b"{}") -> tuple[int, str]:
    response = page.post("/gradio_api/upload", files=[("files", (name, content))])
    return response.status_code, response.text


def kept(uploads: Path) -> list[str]:
    return sorted(file.name for file in uploads.rglob("*") if file.is_file())


def test_a_data_file_is_taken_into_a_folder_that_only_its_user_opens(page: TestClient, uploads: Path) -> None:
    assert send(page, "rows.JSONL")[0] == 200
    assert kept(uploads) == ["rows.JSONL"]
    for folder in (uploads, uploads.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["page.html", "weights.bin", "rows.json.exe", "rows"])
def test_other_kinds_are_refused_and_not_kept(page: TestClient, uploads: Path, name: str) -> None:
    status, sentence = send(page, name)
    assert status == 413 and "is not a data file" in sentence and "不是数据文件" in sentence
    assert kept(uploads) == []


def test_more_than_the_quota_is_refused_and_old_uploads_make_room(page: TestClient, uploads: Path) -> None:
    assert send(page, "first.json", bytes(600))[0] == 200
    status, sentence = send(page, "second.json", bytes(600))
    assert status == 413 and "--data-dir" in sentence
    assert kept(uploads) == ["first.json"]
    old = time.time() - KEPT_SECONDS - 1
    (first,) = uploads.rglob("first.json")
    os.utime(first, (old, old))
    assert send(page, "second.json", bytes(600))[0] == 200
    assert kept(uploads) == ["second.json"]


def test_without_a_length_the_quota_counts_what_arrives(page: TestClient, uploads: Path) -> None:
    boundary = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.json"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield boundary
        yield from (bytes(100) for _ in range(20))

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert page.post("/gradio_api/upload", content=body(), headers=headers).status_code == 413
    assert kept(uploads) == []


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "There is no space left"), (errno.EROFS, "can only be read")]
)
def test_a_disk_that_takes_nothing_is_a_sentence(
    page: TestClient, uploads: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", full)
    status, sentence = send(page, "rows.json")
    assert status == 507 and words in sentence


def test_an_upload_that_is_cut_off_leaves_nothing(uploads: Path) -> None:
    async def inner(scope: object, receive: object, send: object) -> None:
        (uploads / "tmpabc").write_bytes(b"half")
        await receive()  # type: ignore[operator]

    async def receive() -> dict[str, object]:
        raise ClientDisconnect

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
    asyncio.run(UploadGate(inner)(scope, receive, None))  # type: ignore[arg-type]
    assert kept(uploads) == []


def test_what_a_killed_page_left_is_removed_by_the_next_and_what_another_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    left = tmp_path / "page-of-a-killed-one"
    left.mkdir()
    (left / "rows.json").touch()
    (tmp_path / "tmpabc").touch()
    first = prepare_uploads(tmp_path)
    used = scratch_folder()
    (used / "rows.json").touch()
    assert not left.exists() and not (tmp_path / "tmpabc").exists()
    second = prepare_uploads(tmp_path)
    assert (used / "rows.json").exists() and scratch_folder() != used
    for lock in (first, second):
        discard_uploads(lock)
    assert list(tmp_path.iterdir()) == []
