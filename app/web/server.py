"""Serves the page on the network: Gradio behind the guard, checkpoints to take away, health.

Knows HTTP and how Gradio is launched. Who may ask is `guard`'s matter, where to listen is `addresses`'.
"""

from __future__ import annotations

import signal
import threading

import gradio as gr
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.services import Services
from app.tabs.translations import build_i18n
from app.text.languages import language_of
from app.training.form import setting_words
from app.views.checkpoint_table import DOWNLOAD_PATH
from app.views.theme import FAVICON, build_theme, stylesheets
from app.web.addresses import ServerOptions, check_port, own_names
from app.web.downloads import prepare_download
from app.web.guard import Guard, HeadScript
from app.web.uploads import UploadGate
from chatglm2.errors import ChatGLMError, PrefixError

MAX_UPLOAD = "200mb"
# In the place of the library that draws diagrams in replies, which a reply can make take a browser's whole time.
NO_DIAGRAMS = "export default { initialize() {}, run() {} };"


def launch(demo: gr.Blocks, services: Services, options: ServerOptions) -> None:
    """Starts serving and returns.

    Raises:
        ServerError: the address cannot be used.
    """
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
                Middleware(UploadGate),
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

    def without_diagrams(_request: Request) -> Response:
        return Response(NO_DIAGRAMS, media_type="text/javascript")

    return [
        Route("/healthz", health),
        Route(f"/{DOWNLOAD_PATH}", download),
        Route("/assets/mermaid.core-{build}.js", without_diagrams),
    ]


def wait_for_signal() -> None:
    """Returns when the process is asked to end. A trainer is a process of its own and is not asked anything.

    Who asks a second time ends the process at once.
    """
    stop = threading.Event()
    asked = (signal.SIGINT, signal.SIGTERM)
    for number in asked:
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        pass
    for number in asked:
        signal.signal(number, signal.SIG_DFL)
