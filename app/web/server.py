"""Serves the page on the network, and keeps strangers' websites out of it.

Knows HTTP. A LAN page has no password, so a website that one of its users visits could drive it from their browser; the
guard refuses requests that come from another page, or that reached us under a name that is not ours.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from starlette.background import BackgroundTask
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.machine import lan_addresses
from app.services import Services
from app.text.languages import LANGUAGE_COOKIE, build_i18n, language_of
from app.views.fragments import DOWNLOAD_PATH
from app.views.settings_form import setting_words
from app.views.theme import FAVICON, build_theme, head_script, stylesheets
from app.web.downloads import prepare_download
from chatglm2.errors import ChatGLMError, PrefixError
from training.runs.storage import explaining_storage_errors

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
MAX_UPLOAD = "200mb"


class ServerError(ChatGLMError):
    """The page cannot be served, for example because the port is taken."""


@dataclass(frozen=True)
class ServerOptions:
    host: str
    port: int
    uploads: Path
    allowed_hosts: tuple[str, ...] = ()
    language: str | None = None  # None: the browser's


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


def own_names(allowed_hosts: Iterable[str]) -> set[str]:
    """The names under which this machine may be addressed."""
    name = socket.gethostname()
    return {"localhost", name, name.split(".")[0], f"{name.split('.')[0]}.local", *allowed_hosts}


def launch(demo: gr.Blocks, services: Services, options: ServerOptions) -> None:
    """Starts serving and returns.

    Raises:
        ServerError: the address cannot be used.
    """
    _prepare_uploads(options.uploads)
    check_port(options.host, options.port)
    demo.launch(
        server_name=options.host,
        server_port=options.port,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        share=False,
        inbrowser=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        favicon_path=FAVICON,
        theme=build_theme(),
        css_paths=stylesheets(),
        i18n=build_i18n(setting_words()),
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "routes": routes(services),
            "middleware": [
                Middleware(Guard, own_names=own_names(options.allowed_hosts)),
                Middleware(HeadScript, default_language=options.language),
            ],
        },
    )


def routes(services: Services) -> list[Route]:
    """What is served besides the page: its health, and checkpoints to take away."""

    def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": services.host.state.phase})

    def download(request: Request) -> Response:
        try:
            info = services.sources.find(request.query_params.get("key", "")).info
            if info is None:
                raise PrefixError(
                    "The base model is not a checkpoint. Choose a checkpoint.", "基座模型不是检查点，请选择一个检查点。"
                )
            ready = prepare_download(info, request.query_params.get("format", ""), services.host.options)
        except ChatGLMError as error:
            language = language_of(request.cookies, request.headers)
            return PlainTextResponse(error.localized(language), status_code=404)
        return FileResponse(ready.file, filename=ready.name, background=BackgroundTask(ready.discard))

    return [Route("/healthz", health), Route(f"/{DOWNLOAD_PATH}", download)]


def check_port(host: str, port: int) -> None:
    """Fails with a sentence where Gradio would fail with a stack trace.

    Raises:
        ServerError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Stop what is using the port, "
                "or choose another with --port.",
                f"无法监听 {host}:{port}（{error.strerror}）。请停止占用该端口的程序，或用 --port 换一个端口。",
            ) from error


def addresses(options: ServerOptions) -> list[str]:
    """The URLs to open: this machine's own first, then those for the rest of the network."""
    everywhere = options.host in ("0.0.0.0", "::")
    hosts = ["127.0.0.1", *lan_addresses()] if everywhere else [options.host]
    return [f"http://{host}:{options.port}" for host in hosts]


def wait_for_signal() -> None:
    """Returns when the process is asked to end. A trainer is a process of its own and is not asked anything."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        pass


def _prepare_uploads(directory: Path) -> None:
    """What users upload is theirs: other accounts on this machine may not read it."""
    with explaining_storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(directory)
