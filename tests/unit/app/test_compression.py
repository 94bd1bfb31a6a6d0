"""The page travels small, and its files once."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web.compression import Compression

LONG = "<p>" + "word " * 500


class Site:
    """A page and its files, which count how often they were asked for."""

    def __init__(self) -> None:
        self.asked = 0
        routes = [Route("/", self.page), Route("/assets/{name}", self.file), Route("/run", self.page)]
        self.browser = TestClient(Starlette(routes=routes, middleware=[Middleware(Compression)]))

    def page(self, _request: Request) -> Response:
        self.asked += 1
        return HTMLResponse(LONG + str(self.asked))

    def file(self, request: Request) -> Response:
        self.asked += 1
        known = request.path_params["name"] == "index-a1.js"
        return Response(LONG, 200 if known else 404, {"ETag": '"plain"'}, "text/javascript")

    def get(self, path: str, accepted: str) -> tuple[int, str, str | None, str | None]:
        """Status, text, encoding and how long it may be kept."""
        answer = self.browser.get(path, headers={"accept-encoding": accepted})
        return (
            answer.status_code,
            answer.text,
            answer.headers.get("content-encoding"),
            answer.headers.get("cache-control"),
        )


@pytest.mark.parametrize(
    ("accepted", "encoding"), [("gzip, deflate, br", "br"), ("gzip, deflate", "gzip"), ("identity", None)]
)
def test_the_page_is_compressed_as_its_browser_can_read_it_and_kept_by_nobody(
    accepted: str, encoding: str | None
) -> None:
    site = Site()
    assert site.get("/", accepted) == (200, LONG + "1", encoding, None)
    assert site.get("/", accepted) == (200, LONG + "2", encoding, None)


def test_a_file_is_compressed_once_and_kept_for_ever() -> None:
    site = Site()
    for _ in range(2):
        status, text, encoding, kept = site.get("/assets/index-a1.js", "br")
        assert (status, text, encoding) == (200, LONG, "br")
        assert kept is not None and "immutable" in kept
    assert site.asked == 1
    assert site.get("/assets/index-a1.js", "gzip")[1:3] == (LONG, "gzip")


def test_a_file_that_is_not_there_is_asked_for_again() -> None:
    site = Site()
    assert [site.get("/assets/none.js", "br")[0::3] for _ in range(2)] == [(404, None)] * 2
    assert site.asked == 2


def test_what_is_no_file_passes_as_it_is() -> None:
    assert Site().get("/run", "br")[2] is None
