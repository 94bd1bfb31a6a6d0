"""``/healthz``: whether the page can answer, for programs that watch it.

``status`` is "ready", "loading" or "failed". A failed model is 503 with its reason; one that loads is 200, since the
page is there and says how far it is.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.chat.model_host import LoadingState
from app.services import Services
from app.tabs.access import VISITOR
from app.web.entrance import HEALTH_PATH


def health_route(services: Services) -> Route:
    def health(request: Request) -> Response:
        state = services.host.state
        tells_why = request.scope[VISITOR].may_watch
        return JSONResponse(
            described(state, services.host.options.name, tells_why=tells_why),
            status_code=503 if state.error is not None else 200,
            headers={"Cache-Control": "no-store"},
        )

    return Route(HEALTH_PATH, health)


def described(state: LoadingState, model: str, *, tells_why: bool) -> dict[str, Any]:
    """The answer's body; ``tells_why`` is False for somebody who has not signed in."""
    known = {"ready": "ready", "failed": "failed"}
    body: dict[str, Any] = {"status": known.get(state.phase, "loading"), "model": state.phase}
    if not tells_why:
        return body
    body |= {"name": model, "progress": state.fraction}
    if state.error is not None:
        body["reason"] = {"en": state.error.en, "zh": state.error.zh}
    return body
