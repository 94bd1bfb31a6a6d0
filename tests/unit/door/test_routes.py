"""Every route and every function of the page, tried by everybody: what this file does not name is closed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi.routing import iter_route_contexts
from open_door import AT_THE_MACHINE, ELSEWHERE, Served
from starlette.testclient import TestClient

from app.door.accounts import read_accounts
from app.door.door import Door, Mode, Policy
from app.tabs.compare import CompareTab
from app.web.admission import Limits
from app.web.permissions import ROUTES

from .conftest import Serve

CLOSED, REFUSED, LOCKED = 404, 403, 401
MANY = Limits(unread_calls=10_000, unread_calls_of_all=10_000, pages=10_000)

OPEN_ROUTES = {
    *("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon", "/pwa_icon/{size}"),
    *("/static/{path:path}", "/assets/{path:path}", "/svelte/{path:path}"),
    *(
        f"/gradio_api/{name}"
        for name in ("theme.css", "info", "queue/data", "queue/status", "cancel", "reset", "app_id")
    ),
    *("/gradio_api/startup-events", "/gradio_api/heartbeat/{session_hash}"),
}
CALLS = {"/gradio_api/queue/join", "/gradio_api/run/{api_name}"}
OPERATOR_ROUTES = {"/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/file={path_or_url:path}"}
OUR_OPERATOR_ROUTES = {"/download-checkpoint", "/download-evaluation"}
OUR_OPEN_ROUTES = {"/assets/mermaid.core-{build}.js", "/healthz", "/operator-key", "/sign-in", "/sign-out"}
TRYING_A_SECRET = {"/operator-key", "/sign-in"}
WITHOUT_SIGNING_IN = {"/healthz", "/sign-in", "/favicon.ico", "/robots.txt"}
ENDLESS = {"/gradio_api/heartbeat/{session_hash}", "/gradio_api/queue/data"}  # tried by `test_admission`

OPEN_HANDLERS = {
    "build_interface.<locals>": {"on_tick", "on_arrival", "on_to_training"},
    "CompareTab": {"on_send", "on_stop", "on_begin", "on_undo", "on_clear", "on_load", "on_export"}
    | {"on_ask_clear", "on_keep", "on_samples"},
    "CompareTab.on_example.<locals>": {"handler"},
    "CompareTab.on_edit.<locals>": {"handler"},
    "Liking.on_like.<locals>": {"handler"},
    "CompareTab.on_retry.<locals>": {"handler"},
    "CompareTab.on_choose.<locals>": {"handler"},
    "CompareTab.on_mix.<locals>": {"handler"},
    "Mixer": {"on_second"},
    "Conversations": {"on_open", "on_new", "on_action", "on_delete", "on_keep", "on_rename", "on_read"},
    "Looking": {"on_look"},
    "Proving": {"on_load"},
    "Voting": {"on_load", "on_forget"},
    "Voting.on_vote.<locals>": {"handler"},
    "Conversations.on_save.<locals>": {"handler"},
    "CompareTab.bind.<locals>": {"<lambda>"},
    "TrainForm": {"on_cost", "on_source", "on_preset", "on_keep", "on_learns"},
    "TrainTab": {"on_pick", "on_compare", "on_tick"},
    "DetailsPart": {"on_ask", "on_keep"},
    "OverlayPart": {"on_choose", "on_load", "on_tick"},
    "PinnedPart": {"on_load", "on_step", "on_tick"},
    "LinePart": {"on_tick"},
    "SweepTable": {"on_pick", "on_tick"},
    "CheckpointsTab": {"on_action", "on_keep", "on_tick", "on_find"},
    "CardPanel": {"on_close"},
    "EvaluateTab": {"on_pick", "on_tick", "on_rows", "on_open", "on_ask_title", "on_ask_delete", "on_keep"},
    "EvaluationForm": {"on_source", "on_return", "on_sources"},
    "OperatorControls": {"on_load"},
    "Clock": {"on_tick"},
    "ChangedSettings": {"on_changed", "on_back"},
}
OPERATOR_HANDLERS = {
    "TrainForm": {"on_columns", "on_propose", "on_try", "on_file", "on_preview", "on_fit"},
    "TrainTab": {"on_start", "on_stop", "on_resume", "on_share"},
    "DataPart": {"on_search", "on_previous", "on_next", "on_row"}
    | {"on_drop_duplicates", "on_drop_empty", "on_split", "on_limits"},
    "DetailsPart": {"on_copy", "on_rename", "on_note", "on_delete"},
    "PinnedPart": {"on_pin"},
    "LinePart": {"on_take_out"},
    "SweepForm": {"on_begin"},
    "CheckpointsTab": {"on_delete"},
    "CardPanel": {"on_save"},
    "Taking": {"on_add", "on_pull", "on_zip"},
    "Proving": {"on_prove"},
    "EvaluateTab": {"on_start", "on_stop", "on_go_on", "on_rename", "on_delete"},
}


@dataclass(frozen=True)
class Role:
    """Somebody at a page that was started in some way, and what they may."""

    served: Served
    client: TestClient
    may_watch: bool
    may_change: bool


def signed_in(client: TestClient, served: Served) -> TestClient:
    if served.door.policy.accounts:
        answer = client.post("/sign-in", data={"name": "ann", "password": "secret"})
    else:
        answer = client.post("/operator-key", data={"key": served.door.key})
    client.cookies.update(answer.cookies)
    return client


ROLES = {
    "local": (Policy(), AT_THE_MACHINE, False, True, True),
    "stranger": (Policy(), ELSEWHERE, False, True, False),
    "with key": (Policy(), ELSEWHERE, True, True, True),
    "open": (Policy(Mode.OPEN), ELSEWHERE, False, True, True),
    "viewer-only, local": (Policy(Mode.VIEWER_ONLY), AT_THE_MACHINE, False, True, False),
    "auth, local": (Policy(accounts=read_accounts("ann:secret")), AT_THE_MACHINE, False, False, False),
    "auth, signed in": (Policy(accounts=read_accounts("ann:secret")), ELSEWHERE, True, True, True),
}


@pytest.fixture(scope="module", params=ROLES)
def role(request: pytest.FixtureRequest, serve: Serve) -> Role:
    policy, address, signs_in, may_watch, may_change = ROLES[request.param]
    served = serve(Door(policy), limits=MANY)
    client = served.visit(address)
    return Role(served, signed_in(client, served) if signs_in else client, may_watch, may_change)


def routes_of(served: Served) -> Iterator[tuple[str, str]]:
    """(method, template) of everything that the application answers to."""
    for route in iter_route_contexts(served.app.routes):
        assert route.path is not None, f"{route.original_route} is no route that this test knows how to try"
        for method in sorted(route.methods or ()):
            yield method, route.path


def test_every_route_asks_what_it_should(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gr.Blocks, "run_startup_events", lambda _: None)  # they would stop with this test's requests
    tried = 0
    for method, template in routes_of(role.served):
        name = template.rstrip("/") or "/"
        if (name in ENDLESS and role.may_watch) or name == "/sign-out" or (method == "HEAD" and role.may_change):
            continue
        answer = role.client.request(method, re.sub(r"{[^}]*}", "x", template))
        verdict = verdict_of(answer)
        assert is_right(verdict, name, role), f"{method} {template}: {answer.status_code}"
        tried += 1
    assert tried > 80


def verdict_of(answer: Any) -> int:
    """The status, but for files that Gradio itself gives to nobody."""
    return 200 if "not allowed" in answer.text.lower() and answer.status_code == REFUSED else int(answer.status_code)


def is_right(verdict: int, name: str, role: Role) -> bool:
    if not role.may_watch and name not in WITHOUT_SIGNING_IN:
        return verdict == LOCKED
    if name in OPERATOR_ROUTES | OUR_OPERATOR_ROUTES:
        return (verdict == REFUSED) is not role.may_change
    if name in OPEN_ROUTES | CALLS | OUR_OPEN_ROUTES:
        return verdict != LOCKED and (verdict != REFUSED or name in TRYING_A_SECRET)
    return verdict == CLOSED


def handler_of(function: Any) -> tuple[str, str]:
    """The class or function that a handler belongs to, and its name; nothing for one that runs in the browser only."""
    place, _, name = getattr(function.fn, "__qualname__", "").rpartition(".")
    return place, name


def test_every_function_is_named_here(page: tuple[gr.Blocks, Any, Any]) -> None:
    places = {**{place: set(names) for place, names in OPEN_HANDLERS.items()}}
    for place, names in OPERATOR_HANDLERS.items():
        places[place] = places.get(place, set()) | names
    found: dict[str, set[str]] = {}
    for function in page[0].fns.values():
        place, name = handler_of(function)
        if name:
            found.setdefault(place, set()).add(name)
    assert found == places


@pytest.mark.parametrize("way", ["queue/join", "run/x", "run by name"])
def test_every_function_asks_what_it_should_by_number_and_by_name(
    role: Role, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go_no_further(*_: Any, **__: Any) -> dict[str, Any]:
        return {"data": []}

    monkeypatch.setattr("gradio.route_utils.call_process_api", go_no_further)
    for number, function in role.served.demo.fns.items():
        body: dict[str, Any] = {"data": [None] * len(function.inputs), "session_hash": "a"}
        path = f"run/{function.api_name}" if way == "run by name" else way
        if way != "run by name":
            body["fn_index"] = number
        status = role.client.post(f"/gradio_api/{path}", json=body).status_code
        place, name = handler_of(function)
        allowed = role.may_change or name in OPEN_HANDLERS.get(place, set())
        expected = {LOCKED} if not role.may_watch else {200, CLOSED} if allowed else {REFUSED}
        assert status in expected, f"{number} {place}.{name}: {status}"
        if allowed and role.may_watch and way == "queue/join":
            assert status == 200


@pytest.mark.parametrize("number", ["{}", "{}.0", '"{}"', '" {} "', "{}e0"])
def test_a_number_written_in_another_way_is_the_same_function(serve: Serve, number: str) -> None:
    served = serve(Door())
    start = next(i for i, function in served.demo.fns.items() if handler_of(function)[1] == "on_start")
    inputs = ",".join(["null"] * len(served.demo.fns[start].inputs))
    client = served.visit()
    for twice in ("", '"fn_index":0,', '"fn_index":1,'):
        body = f'{{"data":[{inputs}],{twice}"session_hash":"a","fn_index":{number.format(start)}}}'
        answer = client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (REFUSED, 422)


@pytest.mark.parametrize(
    "path",
    ["//gradio_api/upload", "/gradio_api//upload", "/gradio_api/./upload", "/gradio_api/upload/", "/GRADIO_API/upload"],
)
def test_a_path_written_in_another_way_leads_no_further(serve: Serve, path: str) -> None:
    answer = serve(Door()).visit().post(path, files={"files": b"x"})
    assert answer.status_code in (REFUSED, CLOSED, 307)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"7", b"{", b'{"data":{}}', b'{"data":[],"fn_index":1e400}', b"\xff\xfe", b'{"fn_index":[]}'],
)
def test_a_body_that_is_no_call_is_refused_with_no_error_of_ours(serve: Serve, body: bytes) -> None:
    client = serve(Door()).visit(AT_THE_MACHINE)
    for path in ("run/x", "queue/join"):
        answer = client.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500


def test_a_call_with_too_few_values_is_refused(serve: Serve) -> None:
    client = serve(Door()).visit()
    answer = client.post(
        "/gradio_api/run/x", json={"data": [], "fn_index": number_of(serve(Door()), CompareTab.on_send)}
    )
    assert answer.status_code == 422


def number_of(served: Served, handler: Any) -> int:
    qualified = handler.__qualname__
    return next(i for i, function in served.demo.fns.items() if getattr(function.fn, "__qualname__", "") == qualified)


def test_a_refusal_says_what_to_do_in_the_visitors_language(serve: Serve) -> None:
    client = serve(Door()).visit()
    english = client.post("/gradio_api/upload", files={"files": b"x"}).json()["detail"]
    chinese = client.post("/gradio_api/upload", files={"files": b"x"}, headers={"accept-language": "zh-CN"})
    assert "operator key" in english and "操作密钥" in chinese.json()["detail"]


@pytest.mark.parametrize("page_name", ["security.md", "security_zh.md"])
def test_the_documentation_names_every_open_route(repository: Path, page_name: str) -> None:
    text = (repository / "docs" / page_name).read_text(encoding="utf-8")
    names = OPEN_ROUTES | CALLS | OPERATOR_ROUTES | OUR_OPERATOR_ROUTES | OUR_OPEN_ROUTES
    assert set(ROUTES) == OPEN_ROUTES | CALLS | OPERATOR_ROUTES
    assert [
        name for name in names if f"`{name}`" not in text and f"`{name.removeprefix('/gradio_api/')}`" not in text
    ] == []
