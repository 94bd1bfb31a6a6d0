"""The page answers those who opened it, in their language, and nobody's website drives it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from app.text.languages import LANGUAGE_COOKIE
from app.web.addresses import ServerError, ServerOptions, addresses, check_port
from app.web.guard import Guard, HeadScript


def page(_request: Request) -> Response:
    return HTMLResponse("<html><head><script>gradio</script></head></html>")


def client(default_language: str | None = None) -> TestClient:
    middleware = [
        Middleware(Guard, own_names={"localhost", "box"}),
        Middleware(HeadScript, default_language=default_language),
    ]
    routes = [Route("/", page), Route("/run", page, methods=["POST"])]
    return TestClient(Starlette(routes=routes, middleware=middleware), base_url="http://localhost:7860")


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "192.168.1.20:7860", "[::1]:7860", "BOX:7860"])
def test_own_names_and_addresses_are_welcome(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_is_not_ours_is_refused(host: str) -> None:
    guard = Guard(Starlette(), own_names={"localhost"})
    assert guard.refusal("GET", "/", Headers({"host": host}))


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9999", "null", "https://192.168.1.20"])
def test_another_page_cannot_send_requests(origin: str) -> None:
    response = client().post("/run", headers={"origin": origin})
    assert response.status_code == 403
    assert origin in response.text


def test_the_page_itself_can() -> None:
    assert client().post("/run", headers={"origin": "http://localhost:7860"}).status_code == 200
    assert client().post("/run").status_code == 200  # a program, not a browser


def test_every_answer_carries_the_policy() -> None:
    policy = client().get("/").headers["content-security-policy"]
    assert "img-src 'self' data: blob:" in policy
    assert "frame-ancestors 'self'" in policy


def test_the_language_is_fixed_before_the_page_starts() -> None:
    body = client().get("/", headers={"accept-language": "zh-TW"}).text
    assert body.index('pageLanguage="zh"') < body.index("gradio")


def test_the_chosen_language_outranks_the_start_flag() -> None:
    assert 'pageLanguage="zh"' in client("zh").get("/", headers={"accept-language": "en"}).text
    chosen = client("zh").get("/", headers={"cookie": f"{LANGUAGE_COOKIE}=en"})
    assert 'pageLanguage="en"' in chosen.text
    assert int(chosen.headers["content-length"]) == len(chosen.content)


def test_a_busy_port_is_a_sentence_with_a_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError) as caught:
            check_port("127.0.0.1", port)
    assert str(port) in str(caught.value) and "--port" in caught.value.zh


def test_listening_everywhere_names_what_to_open(tmp_path: Path) -> None:
    assert addresses(ServerOptions("0.0.0.0", 7860, tmp_path))[0] == "http://127.0.0.1:7860"
    assert addresses(ServerOptions("10.0.0.5", 80, tmp_path)) == ["http://10.0.0.5:80"]
