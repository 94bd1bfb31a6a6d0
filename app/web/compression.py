"""How the page and Gradio's files travel: compressed, and files only once to each browser.

Knows HTTP. Gradio sends its page as it is and compresses each of its files anew for every visitor; its files carry a
hash of their contents in their names, so a browser that has one need never ask for it again.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

import brotli
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILES = "/assets/"
FOR_EVER = "private, max-age=31536000, immutable"
PLAIN = ("text/", "application/javascript", "application/json", "image/svg")
# Brotli first: a browser offers it where it may be used, which is on its own machine and over HTTPS.
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "br": lambda body: bytes(brotli.compress(body, quality=9)),
    "gzip": lambda body: gzip.compress(body, 9),
}


@dataclass(frozen=True)
class _Answer:
    start: Message
    body: bytes


class Compression:
    """ASGI middleware: compresses the page, and each file once for all visitors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._files: dict[tuple[str, str], _Answer] = {}  # by path and encoding; as many as there are files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope.get("path", ""), Headers(scope=scope)
        encoding = _best_encoding(headers) if scope["type"] == "http" and scope["method"] == "GET" else None
        is_file = path.startswith(FILES)
        if encoding is None or "range" in headers or not (is_file or path == "/"):
            await self.app(scope, receive, send)
            return
        answer = self._files.get((path, encoding))
        if answer is None:
            answer = await self._fetch(scope, receive, encoding)
            if is_file and answer.start["status"] == 200:
                MutableHeaders(scope=answer.start)["Cache-Control"] = FOR_EVER
                self._files[path, encoding] = answer
        # Whoever stands in front adds headers to what is sent.
        await send({**answer.start, "headers": list(answer.start["headers"])})
        await send({"type": "http.response.body", "body": answer.body})

    async def _fetch(self, scope: Scope, receive: Receive, encoding: str) -> _Answer:
        """The whole answer, compressed where that makes it smaller."""
        start: Message = {}
        body = bytearray()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message, headers=list(message.get("headers", ())))
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))

        unconditional = [(name, value) for name, value in scope["headers"] if not name.startswith(b"if-")]
        await self.app({**scope, "headers": unconditional}, receive, keep)
        headers, sent = MutableHeaders(scope=start), bytes(body)
        if headers.get("content-type", "").startswith(PLAIN) and "content-encoding" not in headers:
            sent = await run_in_threadpool(ENCODINGS[encoding], sent)
            headers["Content-Encoding"] = encoding
            del headers["etag"]  # it is that of the plain file
        headers["Content-Length"] = str(len(sent))
        headers.add_vary_header("Accept-Encoding")
        return _Answer(start, sent)


def _best_encoding(headers: Headers) -> str | None:
    accepted = {offer.split(";")[0].strip() for offer in headers.get("accept-encoding", "").split(",")}
    return next((name for name in ENCODINGS if name in accepted), None)
