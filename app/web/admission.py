"""How much one visitor may have under way: requests, calls whose answers nobody reads, pages that are kept in memory.

Knows what is kept for a page through `Sessions`, which a test builds by hand. Limits are for one address, so that
somebody who takes too much is told so and nobody else is; 30 people behind one address stay below them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.door.throttle import network_of
from app.tabs.access import VISITOR

HEARTBEAT, STREAM, UPLOAD = "/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/upload"
SWEEP_SECONDS = 5.0
TOO_MANY = (
    "Too much of yours is under way. Close pages that you do not need, or try again in a minute.\n"
    "您同时进行的请求过多。请关闭不用的页面，或稍后再试。"
)
RETRY = {"Retry-After": "60"}


@dataclass(frozen=True)
class Limits:
    """For one address, unless it says otherwise."""

    open_requests: int = 128
    open_requests_of_all: int = 512
    unread_calls: int = 64
    unread_calls_of_all: int = 512
    pages: int = 128
    pages_of_all: int = 1024
    body_bytes: int = 4 * 2**20  # uploads have a limit of their own
    forgotten_after_seconds: float = 120.0  # a page that is gone, or a caller who never read


class Sessions(Protocol):
    """What the server keeps for each open page."""

    def names(self) -> set[str]:
        """Every session that something is kept for."""

    def unread(self, session: str) -> int:
        """How many calls of a session have not been answered, or their answers not been read."""

    async def forget(self, session: str) -> None:
        """Drops what is kept for a session and ends what it still waits for."""


@dataclass
class _Page:
    address: str
    seen_at: float
    connections: int = 0


class Admission:
    """Counts for every address. Lives on the server's event loop, so nothing here needs a lock."""

    def __init__(
        self, sessions: Sessions, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or Limits()
        self._sessions, self._clock = sessions, clock
        self._open: Counter[str] = Counter()
        self._pages: dict[str, _Page] = {}
        self._swept_at = clock()

    async def admit_call(self, address: str, session: str | None, *, waits: bool) -> None:
        """Notes a call of ``session``; ``waits`` where its answer lies here until it is read.

        Raises:
            HTTPException: 429, this address waits for too many answers, or reads none of them.
        """
        mine = network_of(address)
        await self._sweep()
        if waits:
            unread = {name: self._sessions.unread(name) for name in self._pages}
            of_mine = sum(count for name, count in unread.items() if self._pages[name].address == mine)
            if of_mine >= self.limits.unread_calls or sum(unread.values()) >= self.limits.unread_calls_of_all:
                raise HTTPException(429, TOO_MANY, headers=RETRY)
        if session is not None:
            await self._note(session, mine)

    async def enter(self, address: str, session: str | None) -> bool:
        """Notes a request that begins; False where there are too many. :meth:`leave` ends it."""
        mine = network_of(address)
        if self._open[mine] >= self.limits.open_requests or self._open.total() >= self.limits.open_requests_of_all:
            return False
        self._open[mine] += 1
        if session is not None:
            page = await self._note(session, mine)
            page.connections += 1
        return True

    def leave(self, address: str, session: str | None) -> None:
        self._open -= Counter((network_of(address),))  # drops those that reach zero
        page = self._pages.get(session or "")
        if page is not None:
            page.connections = max(0, page.connections - 1)
            page.seen_at = self._clock()

    async def _note(self, session: str, address: str) -> _Page:
        page = self._pages.get(session)
        if page is None:
            mine = [name for name, other in self._pages.items() if other.address == address]
            if len(mine) >= self.limits.pages:
                await self._forget(self._least_of(mine))
            if len(self._pages) >= self.limits.pages_of_all:
                await self._forget(self._least_of(self._pages))
            page = self._pages[session] = _Page(address, self._clock())
        page.seen_at = self._clock()
        return page

    def _least_of(self, names: Iterable[str]) -> str:
        """What is forgotten first: closed before open, then the longest unused."""
        return min(names, key=lambda name: (self._pages[name].connections > 0, self._pages[name].seen_at))

    async def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        last = now - self.limits.forgotten_after_seconds
        for name in [name for name, page in self._pages.items() if not page.connections and page.seen_at < last]:
            await self._forget(name)
        # What was being computed for a page when it was forgotten has left something behind.
        for name in self._sessions.names() - self._pages.keys():
            await self._forget(name)

    async def _forget(self, session: str) -> None:
        self._pages.pop(session, None)
        await self._sessions.forget(session)


class AdmissionGate:
    """ASGI middleware: counts requests while they last, and bodies as they come."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self.app, self.admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        address, session = scope[VISITOR].address, session_of(scope)
        if not await self.admission.enter(address, session):
            await PlainTextResponse(TOO_MANY, status_code=429, headers=RETRY)(scope, receive, send)
            return
        try:
            limit = None if scope["path"].rstrip("/") == UPLOAD else self.admission.limits.body_bytes
            await self.app(scope, _limited(receive, limit), send)
        finally:
            self.admission.leave(address, session)


def session_of(scope: Scope) -> str | None:
    """The page that a lasting connection belongs to; None for other requests."""
    path: str = scope["path"]
    if path.startswith(HEARTBEAT):
        return path[len(HEARTBEAT) :]
    if path == STREAM:
        return QueryParams(scope["query_string"]).get("session_hash")
    return None


def _limited(receive: Receive, limit: int | None) -> Receive:
    """``receive``, which ends the request where its body grows beyond ``limit`` bytes."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if limit is not None and received > limit:
            raise HTTPException(413, f"A request takes up to {limit} bytes.")
        return message

    return receive_limited
