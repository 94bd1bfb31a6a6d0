"""What each route, and each function behind the page, takes: the check that every request to Gradio passes.

Knows Gradio's routes and how they name a function. It hangs on Gradio's application as a dependency, so that it sees
the route that was matched and reads the body with the model that Gradio reads it with. A route that is not listed here
is closed, and a handler that is not marked `open_to_all` is the operator's: what is new stays shut until it is opened.
"""

from __future__ import annotations

from enum import StrEnum

import gradio as gr
from fastapi import HTTPException, Request
from gradio.block_function import BlockFunction
from gradio.data_classes import PredictBody
from pydantic import ValidationError

from app.door.door import Remedy, Visitor
from app.tabs.access import VISITOR, is_open_to_all
from app.text.languages import Speech, language_of
from app.web.admission import Admission

API = "/gradio_api"
QUEUE = f"{API}/queue/join"


class Takes(StrEnum):
    """What a route asks of its visitor."""

    NOTHING = "nothing"  # open to whoever may watch
    FUNCTION = "function"  # what the function that it calls takes
    OPERATOR = "operator"


# By the route's own template, without a slash at its end. Everything else is closed to everybody.
ROUTES: dict[str, Takes] = {
    # The page and its files
    **dict.fromkeys(("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"), Takes.NOTHING),
    **dict.fromkeys(("/static/{path:path}", "/assets/{path:path}", "/svelte/{path:path}"), Takes.NOTHING),
    **dict.fromkeys(("/pwa_icon", "/pwa_icon/{size}", f"{API}/theme.css", f"{API}/info"), Takes.NOTHING),
    # A page's own events, under ids that only it knows
    **dict.fromkeys((f"{API}/heartbeat/{{session_hash}}", f"{API}/queue/data", f"{API}/cancel"), Takes.NOTHING),
    **dict.fromkeys((f"{API}/reset", f"{API}/startup-events", f"{API}/queue/status", f"{API}/app_id"), Takes.NOTHING),
    # Calls. The page uses these two of Gradio's five ways; the others stay closed.
    **dict.fromkeys((QUEUE, f"{API}/run/{{api_name}}"), Takes.FUNCTION),
    # Files that come and go
    **dict.fromkeys((f"{API}/upload", f"{API}/upload_progress", f"{API}/file={{path_or_url:path}}"), Takes.OPERATOR),
}


class Permissions:
    """A FastAPI dependency for the whole application."""

    def __init__(self, blocks: gr.Blocks, admission: Admission) -> None:
        self._blocks, self._admission = blocks, admission

    async def __call__(self, request: Request) -> None:
        """Lets a request through or ends it.

        Raises:
            HTTPException: 404 where nothing is open, 403 with a sentence where the visitor may not, 429 where this
                visitor waits for too much already.
        """
        takes = ROUTES.get(route_of(request))
        visitor: Visitor = request.scope[VISITOR]
        if takes is None:
            raise HTTPException(404)
        if takes is Takes.OPERATOR and not visitor.may_change:
            raise HTTPException(403, refusal(visitor, request))
        if takes is Takes.FUNCTION:
            body = await _body_of(request)
            function = self._function(request, body)
            if not (visitor.may_change or is_open_to_all(function.fn)):
                raise HTTPException(403, refusal(visitor, request))
            if len(body.data) != len(function.inputs):
                raise HTTPException(422, f"This function takes {len(function.inputs)} values, found {len(body.data)}.")
            await self._admission.admit_call(visitor.address, body.session_hash, waits=route_of(request) == QUEUE)

    def _function(self, request: Request, body: PredictBody) -> BlockFunction:
        """The function that Gradio will call for this request, found as Gradio finds it."""
        functions = self._blocks.fns
        if body.fn_index is not None:
            found = functions.get(body.fn_index)
        else:
            name = request.path_params.get("api_name")
            found = next((function for function in functions.values() if function.api_name == name), None)
        if found is None:
            raise HTTPException(404)
        return found


def route_of(request: Request) -> str:
    """The template of the route that was matched."""
    return str(request.scope["route"].path).rstrip("/") or "/"


def refusal(visitor: Visitor, request: Request) -> str:
    """Why a visitor may not, and what to do about it."""
    speech = Speech(language_of(request.cookies, request.headers))
    return speech("needs_key" if visitor.remedy is Remedy.KEY else "viewer_only")


async def _body_of(request: Request) -> PredictBody:
    try:
        return PredictBody.model_validate(await request.json())
    except (ValueError, ValidationError) as error:
        raise HTTPException(422, "The body is not a call.") from error
