"""Whatever somebody sends: it is answered or refused, the server goes on, and the next visitor notices nothing.

Each property is tried on what hypothesis invents.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventions import GARBAGE, JSON, SCALARS, TEXTS, requested
from open_door import AT_THE_MACHINE, ELSEWHERE, Served
from starlette.testclient import TestClient

from app.door.door import Door
from app.web.admission import Limits
from app.web.permissions import ROUTES

from .conftest import Serve
from .test_routes import ENDLESS, OPEN_HANDLERS, handler_of

ROOMY = Limits(unread_calls=10**9, unread_calls_of_all=10**9, pages=10**6, pages_of_all=10**6)
HEADERS = [
    *("host", "origin", "sec-fetch-site", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"),
    *("cookie", "authorization", "accept-language", "accept-encoding", "content-type", "content-length", "range"),
    *("transfer-encoding", "x-gradio-user", "x-gradio-server", "referer", "if-none-match"),
]
VALUES = (
    st.sampled_from(["[", "[::1]:x", "127.0.0.1", "::1,", "null", "http://[", "bytes=-1-", "gzip;q=x", "Bearer ", "="])
    # Gradio repeats an origin in its answer, and the client here reads no headers beyond ASCII.
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
).map(str.encode)
PATHS = st.sampled_from([route for route in ROUTES if route not in ENDLESS]) | st.sampled_from(
    ["/operator-key", "/sign-in", "/healthz", "/download-checkpoint", "/download-evaluation", "//", "/%00", "/..%2f"]
)
BODIES = GARBAGE | st.dictionaries(
    st.sampled_from(["data", "fn_index", "session_hash", "event_data", "trigger_id", "api_name", "event_id", "key"]),
    JSON | st.integers(0, 200) | st.lists(SCALARS, max_size=9),
    max_size=4,
).map(lambda body: json.dumps(body).encode())


@pytest.fixture(scope="module")
def served(serve: Serve) -> Served:
    return serve(Door(), limits=ROOMY)


@requested
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "X"]),
    path=PATHS,
    asked=st.text(max_size=12),
    headers=st.lists(st.tuples(st.sampled_from(HEADERS).map(str.encode), VALUES), max_size=4),
    body=BODIES,
    address=st.sampled_from([AT_THE_MACHINE, ELSEWHERE, "testclient", "::1"]),
)
def test_any_request_is_answered_or_refused(
    served: Served,
    method: str,
    path: str,
    asked: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    address: str,
) -> None:
    named = {name for name, _ in headers}
    sent = [*headers, *([] if b"host" in named else [(b"host", b"192.168.1.20:7860")])]
    client = served.visit(address)
    answer = client.request(
        method, path.replace("{", "").replace("}", ""), params={"x": asked}, headers=sent, content=body
    )
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "Traceback" not in answer.text


OPEN_NAMES = {(place, name) for place, names in OPEN_HANDLERS.items() for name in names}
# What waits for a model, which is not there, and what a clock does every second, is tried elsewhere.
PAYLOADS = st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner))


def numbers_open_to_all(served: Served) -> list[int]:
    return [number for number, function in served.demo.fns.items() if handler_of(function) in OPEN_NAMES]


@requested
@given(data=st.data())
def test_any_payload_of_any_open_function_leaves_the_page_working(served: Served, data: st.DataObject) -> None:
    functions = served.demo.fns
    number = data.draw(st.sampled_from(numbers_open_to_all(served)))
    values = [data.draw(PAYLOADS) for _ in functions[number].inputs]
    body: dict[str, Any] = {"data": values, "fn_index": number, "session_hash": "fuzz"}
    event = data.draw(st.none() | JSON)
    if event is not None:
        body["event_data"] = event
    visitor = served.visit(ELSEWHERE)
    answer = visitor.post(
        "/gradio_api/run/x", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    told = answer.text
    assert "Traceback" not in told
    assert answer.status_code in (200, 404, 422, 500), told
    require_working(visitor)


def require_working(visitor: TestClient) -> None:
    assert visitor.get("/healthz").status_code in (200, 503)
