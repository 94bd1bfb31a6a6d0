"""What stands in front of every request: the guard, which keeps strangers' websites out, and our head script.

Knows ASGI. A LAN page has no password, so a website that one of its users visits could drive it from their browser; the
guard refuses requests that come from another page, or that reached us under a name that is not ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
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


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and sends the security headers."""

    def __init__(self, app: ASGIApp, own_names: Iterable[str]) -> None:
        self.app = app
        self.own_names = {name.lower() for name in own_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(Headers(scope=scope))
        if refusal is not None:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with these headers is refused; None if it is welcome."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not self._is_own(name):
            return (
                f"This page does not answer to the name {name!r}. Open it by its IP address, "
                f"or start it with --allowed-host {name}.\n"
                f"本页面不接受以 {name!r} 访问。请用 IP 地址打开，或在启动时加上 --allowed-host {name}。"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Requests from another page ({origin}) are refused.\n拒绝来自其他页面（{origin}）的请求。"
        return None

    def _is_own(self, name: str) -> bool:
        if name.lower() in self.own_names:
            return True
        try:
            # A hostile site can point its own name at us, but no name can look like an address.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


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
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(b"<head>", b"<head>" + script, 1)
            MutableHeaders(scope=start)["Content-Length"] = str(len(page))
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, send_with_script)
