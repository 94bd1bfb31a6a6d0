"""What stands in front of every request: the guard, which keeps strangers' websites out, and our head script.

Knows ASGI. A website that one of our users visits could drive the page from their browser, with what that user may do;
the guard refuses requests that come from another page, or that reached us under a name that is not ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.text.languages import LANGUAGE_COOKIE, language_of
from app.views.theme import head_script

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio writes its configuration into inline scripts and compiles HTML templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)

HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9_.-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::\d{1,5})?")
# Another site, and another port of this one: who serves that is somebody else.
FOREIGN_SITES = ("cross-site", "same-site")


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and sends the security headers."""

    def __init__(self, app: ASGIApp, own_names: Iterable[str]) -> None:
        self.app = app
        self.own_names = {name.lower() for name in own_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope["method"], scope["path"], Headers(scope=scope))
        if refusal is not None:
            answer = PlainTextResponse(refusal.sentence, status_code=refusal.status)
            await answer(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, method: str, path: str, headers: Headers) -> Refusal | None:
        """Why a request is refused; None if it is welcome."""
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return Refusal(400, "The Host header is not a name or an address.\nHost 请求头不是主机名或地址。")
        if not self._is_own(name):
            return Refusal(
                403,
                f"This page does not answer to the name {name!r}. Open it by its IP address, "
                f"or start it with --allowed-host {name}.\n"
                f"本页面不接受以 {name!r} 访问。请用 IP 地址打开，或在启动时加上 --allowed-host {name}。",
            )
        origin = headers.get("origin")
        if origin is not None and not _same_host(origin, hosts[0]):
            return Refusal(
                403, f"Requests from another page ({origin}) are refused.\n拒绝来自其他页面（{origin}）的请求。"
            )
        if headers.get("sec-fetch-site") in FOREIGN_SITES and not _opens_the_page(method, path, headers):
            return Refusal(403, "Requests from another page are refused.\n拒绝来自其他页面的请求。")
        return None

    def _is_own(self, name: str) -> bool:
        # A hostile site can point its own name at us, but no name can look like an address.
        return name.lower() in self.own_names or is_address(name)


@dataclass(frozen=True)
class Refusal:
    status: int
    sentence: str


def host_name(host: str) -> str | None:
    """The name or address in a Host header, without its port; None where that is no such thing."""
    match = HOST.fullmatch(host)
    return None if match is None else (match["name"] or match["v6"])


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_local_name(name: str) -> bool:
    """Whether ``name`` leads to this machine alone, wherever it is said."""
    return name.lower() == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def _same_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _opens_the_page(method: str, path: str, headers: Headers) -> bool:
    """A link to the page, clicked elsewhere: it shows the page in a window of its own and does nothing."""
    opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return opens and method in ("GET", "HEAD") and path == "/"


class HeadScript:
    """ASGI middleware: puts our head script in front of everything, since Gradio reads the language as it starts."""

    def __init__(self, app: ASGIApp, default_language: str | None) -> None:
        self.app = app
        self.default_language = default_language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        language = language_of(request.cookies, request.headers, self.default_language)
        script = head_script(language, LANGUAGE_COOKIE).encode()
        start: Message = {}
        body = bytearray()

        async def send_with_script(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(b"<head>", b"<head>" + script, 1)
            MutableHeaders(scope=start)["Content-Length"] = str(len(page))
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, send_with_script)
