"""Where a request really comes from: the other end of its connection, or whom a proxy on this machine names.

Knows ASGI and proxies' headers. What a proxy says is believed from loopback only, and then tells visitors apart; it
makes nobody local.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.guard import host_name, is_address, is_local_name

FORWARDED = "forwarded"  # the scope's key: whether anything stood between the visitor and us
FORWARDING_HEADERS = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-server"),
        *("x-forwarded-prefix", "x-original-host", "x-original-forwarded-for"),
    }
)


class Forwarding:
    """ASGI middleware: settles the scope's ``client`` and ``scheme``, and takes proxies' headers away.

    Gradio would build its links from them, so that whoever sends ``X-Forwarded-Host`` decides where the page looks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        named = [name for name in headers if name in FORWARDING_HEADERS]
        settled = {**scope, FORWARDED: bool(named)}
        if named:
            kept = [
                (name, value) for name, value in scope["headers"] if name.decode("latin-1") not in FORWARDING_HEADERS
            ]
            if is_loopback(peer_of(scope)):
                settled["client"] = (_forwarded_address(headers) or peer_of(scope), 0)
                if headers.get("x-forwarded-proto") == "https":
                    settled["scheme"] = "https"
                    kept.append((b"x-forwarded-proto", b"https"))  # Gradio's links take it from here
            settled["headers"] = kept
        await self.app(settled, receive, send)


def peer_of(scope: Scope) -> str:
    """The address at the other end; empty where there is none, as over a Unix socket."""
    return scope["client"][0] if scope.get("client") else ""


def is_local(scope: Scope) -> bool:
    """Whether this is the machine's own browser: over loopback, under a local name, with nothing in between."""
    name = host_name(Headers(scope=scope).get("host", ""))
    return not scope[FORWARDED] and is_loopback(peer_of(scope)) and name is not None and is_local_name(name)


def is_loopback(address: str) -> bool:
    if not is_address(address):
        return False
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _forwarded_address(headers: Headers) -> str | None:
    """The last address that is not this machine's: a proxy appends whom it saw, all before that anybody can write."""
    hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
    return _last_foreign(reversed(hops))


def _last_foreign(hops: Iterable[str]) -> str | None:
    for hop in hops:
        if not is_address(hop):
            return None
        if not is_loopback(hop):
            return hop
    return None
