"""The entrance: who sends a request, the wall in front of a page with accounts, and the ways to sign in and out.

Knows HTTP. What a visitor may do is decided in `app.door`; which function or route takes what is `permissions`' matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.door.door import Door, Visitor, WrongSecret
from app.door.throttle import TooManyAttempts
from app.tabs.access import VISITOR
from app.text.languages import Speech, language_of
from app.views.entrance import sign_in_page
from app.web.forwarding import is_local, peer_of
from chatglm2.errors import ChatGLMError, PromptError

KEY_PATH, SIGN_IN_PATH, SIGN_OUT_PATH, HEALTH_PATH = "/operator-key", "/sign-in", "/sign-out", "/healthz"
ALWAYS_OPEN = frozenset({SIGN_IN_PATH, HEALTH_PATH, "/favicon.ico", "/robots.txt"})
SESSION_SECONDS = 30 * 86400
MAX_FORM_BYTES = 4096
BEARER = "bearer "


class Entrance:
    """ASGI middleware: puts the `Visitor` into the scope, and lets nobody pass who has to sign in first."""

    def __init__(self, app: ASGIApp, door: Door, cookie: str) -> None:
        self.app, self.door, self.cookie = app, door, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        visitor = self.door.admit(peer_of(scope), is_local=is_local(scope), token=request.cookies.get(self.cookie))
        visitor, refusal = self._with_key(visitor, request.headers)
        if refusal is None and not visitor.may_watch and scope["path"] not in ALWAYS_OPEN:
            refusal = _wall(request)
        answer: ASGIApp = refusal or self.app
        await answer({**scope, VISITOR: visitor}, receive, send)

    def _with_key(self, visitor: Visitor, headers: Headers) -> tuple[Visitor, Response | None]:
        """A program has no cookies: it sends the key with every request."""
        sent = headers.get("authorization", "")
        if visitor.may_change or not self.door.uses_key or not sent.lower().startswith(BEARER):
            return visitor, None
        try:
            self.door.check_key(visitor.address, sent[len(BEARER) :])
        except ChatGLMError as error:
            return visitor, refuse(error, Speech())
        return visitor.with_key(), None


def entrance_routes(door: Door, cookie: str) -> list[Route]:
    """Where the key is used, where accounts sign in, and where either ends."""
    one_at_a_time = asyncio.Semaphore()  # hashing takes a processor; chats need the others

    def begin(request: Request, answer: Response, token: str) -> Response:
        answer.set_cookie(
            cookie,
            token,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    async def use_key(request: Request) -> Response:
        speech = _speech(request)
        try:
            form = await read_form(request)
            token = door.use_key(peer_of(request.scope), form("key"))
        except ChatGLMError as error:
            return refuse(error, speech)
        return begin(request, JSONResponse({"may_change": True}), token)

    def show_sign_in(request: Request) -> Response:
        return HTMLResponse(sign_in_page(_speech(request)))

    async def sign_in(request: Request) -> Response:
        speech = _speech(request)
        try:
            form = await read_form(request)
            name, password = form("name"), form("password")
            async with one_at_a_time:
                token = await run_in_threadpool(door.sign_in, peer_of(request.scope), name, password)
        except ChatGLMError as error:
            page = sign_in_page(speech, error.localized(speech.language))
            return HTMLResponse(page, status_code=_status(error), headers=_waiting(error))
        return begin(request, RedirectResponse("/", status_code=303), token)

    def sign_out(request: Request) -> Response:
        door.sign_out(request.cookies.get(cookie))
        answer = PlainTextResponse("")
        answer.delete_cookie(cookie)
        return answer

    return [
        Route(KEY_PATH, use_key, methods=["POST"]),
        Route(SIGN_IN_PATH, show_sign_in, methods=["GET"]),
        Route(SIGN_IN_PATH, sign_in, methods=["POST"]),
        Route(SIGN_OUT_PATH, sign_out, methods=["POST"]),
    ]


async def read_form(request: Request) -> Callable[[str], str]:
    """The fields of a small form, by name; empty where one is missing.

    Raises:
        PromptError: it is larger than such a form can be.
    """
    body = bytearray()
    async for chunk in request.stream():
        body.extend(chunk)
        if len(body) > MAX_FORM_BYTES:
            raise PromptError(
                f"This form takes up to {MAX_FORM_BYTES} bytes. Send less.", f"表单不能超过 {MAX_FORM_BYTES} 字节。"
            )
    fields = parse_qs(body.decode("utf-8", "replace"))
    return lambda name: fields.get(name, [""])[0]


def refuse(error: ChatGLMError, speech: Speech) -> Response:
    """A refusal as Gradio's own: a sentence under ``detail``."""
    sentence = error.localized(speech.language)
    return JSONResponse({"detail": sentence}, status_code=_status(error), headers=_waiting(error))


def _wall(request: Request) -> Response:
    """To a person the form; to a program a sentence."""
    speech = _speech(request)
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(sign_in_page(speech), status_code=401)
    return JSONResponse({"detail": speech("sign_in_first")}, status_code=401)


def _speech(request: Request) -> Speech:
    return Speech(language_of(request.cookies, request.headers))


def _status(error: ChatGLMError) -> int:
    if isinstance(error, TooManyAttempts):
        return 429
    return 403 if isinstance(error, WrongSecret) else 400


def _waiting(error: ChatGLMError) -> dict[str, str]:
    return {"Retry-After": str(error.retry_seconds)} if isinstance(error, TooManyAttempts) else {}
