"""Serves the page on the network: Gradio behind the guard, checkpoints to take away, health.

Knows HTTP and how Gradio is launched, and in which order a request passes what stands in front: where it comes from
(`forwarding`), whether it is meant for us (`guard`), who sends it (`entrance`), how much they have under way
(`admission`), and what its route and function take (`permissions`).
"""

from __future__ import annotations

import os
import queue
import signal
from typing import Any

import gradio as gr
from fastapi import Depends
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.door.door import Door, Visitor
from app.services import Services
from app.tabs.access import VISITOR
from app.tabs.listening import THREADS
from app.tabs.translations import build_i18n
from app.text.languages import language_of
from app.training.form import setting_words
from app.views.checkpoint_table import DOWNLOAD_PATH
from app.views.evaluation import EVALUATION_PATH
from app.views.theme import FAVICON, build_theme, stylesheets
from app.web.addresses import ServerOptions, check_port, own_names
from app.web.admission import Admission, AdmissionGate, Limits
from app.web.compression import Compression
from app.web.downloads import prepare_download
from app.web.entrance import Entrance, entrance_routes
from app.web.forwarding import Forwarding
from app.web.guard import Guard, HeadScript
from app.web.health import health_route
from app.web.permissions import Permissions, refusal
from app.web.sessions import GradioSessions, keep_sessions_lean
from app.web.uploads import UploadGate
from chatglm2.errors import ChatGLMError, PrefixError

MAX_UPLOAD = "200mb"
# In the place of the library that draws diagrams in replies, which a reply can make take a browser's whole time.
NO_DIAGRAMS = "export default { initialize() {}, run() {} };"


def launch(demo: gr.Blocks, services: Services, options: ServerOptions, door: Door) -> None:
    """Starts serving and returns. What a visitor may do is the ``door``'s to say.

    Raises:
        ServerError: the address cannot be used.
    """
    check_port(options.host, options.port)
    # The server would believe a forwarded address by its own rules, before ours see who is really there.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
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
        max_threads=THREADS,
        favicon_path=FAVICON,
        theme=build_theme(),
        css_paths=stylesheets(),
        i18n=build_i18n(setting_words()),
        app_kwargs=application_options(demo, services, options, door),
    )
    keep_sessions_lean(demo.app)


def application_options(
    demo: gr.Blocks, services: Services, options: ServerOptions, door: Door, limits: Limits | None = None
) -> dict[str, Any]:
    """What Gradio's application is built with: our routes, and what stands in front of all of them."""
    # A cookie is sent to every port of a machine; another page of ours there has another.
    cookie = f"chatglm-session-{options.port}"
    admission = Admission(GradioSessions(demo), limits)
    return {
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
        "routes": [*routes(services), *entrance_routes(door, cookie)],
        "dependencies": [Depends(Permissions(demo, admission))],
        "middleware": [
            Middleware(Forwarding),
            Middleware(Guard, own_names=own_names(options.allowed_hosts)),
            Middleware(Entrance, door=door, cookie=cookie),
            Middleware(AdmissionGate, admission=admission),
            Middleware(Compression),
            Middleware(HeadScript, default_language=options.language),
            Middleware(UploadGate),
        ],
    }


def routes(services: Services) -> list[Route]:
    """What is served besides the page: its health, and checkpoints and results to take away."""

    def download(request: Request) -> Response:
        visitor: Visitor = request.scope[VISITOR]
        if not visitor.may_change:
            return PlainTextResponse(refusal(visitor, request), status_code=403)
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

    def without_diagrams(_request: Request) -> Response:
        return Response(NO_DIAGRAMS, media_type="text/javascript")

    def download_evaluation(request: Request) -> Response:
        visitor: Visitor = request.scope[VISITOR]
        if not visitor.may_change:
            return PlainTextResponse(refusal(visitor, request), status_code=403)
        name, file = request.query_params.get("name", ""), request.query_params.get("file", "")
        try:
            found = services.evaluation.result_file(name, file)
        except ChatGLMError as error:
            language = language_of(request.cookies, request.headers)
            return PlainTextResponse(error.localized(language), status_code=404)
        return FileResponse(found, filename=f"{name}-{found.name}")

    return [
        health_route(services),
        Route(f"/{DOWNLOAD_PATH}", download),
        Route(f"/{EVALUATION_PATH}", download_evaluation),
        Route("/assets/mermaid.core-{build}.js", without_diagrams),
    ]


def wait_for_signal() -> None:
    """Returns when the process is asked to end. A trainer is a process of its own and is not asked anything.

    Who asks a second time ends the process at once.
    """
    # A signal may come while this thread holds a lock of what it waits for; this queue is the kind that allows it.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda number, _: asked.put(number))
    asked.get()
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
