"""Somebody who takes too much is told so; nobody else notices."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from open_door import ELSEWHERE
from starlette.exceptions import HTTPException

from app.door.door import Door
from app.tabs.compare import CompareTab
from app.tabs.listening import ASKED, CHATTING, FETCHING, STOPPING, THREADS, WORKING
from app.tabs.train import TrainTab
from app.web.admission import Admission, Limits

from .conftest import Serve
from .test_routes import number_of

GREEDY, OTHER = "10.0.0.1", "10.0.0.2"


class Tables:
    """What a server keeps, by hand."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.forgotten: list[str] = []

    def names(self) -> set[str]:
        return set(self.calls)

    def unread(self, session: str) -> int:
        return self.calls[session]

    async def forget(self, session: str) -> None:
        self.forgotten.append(session)
        del self.calls[session]


class World:
    """An admission whose clock and tables a test moves."""

    def __init__(self, **limits: float) -> None:
        self.now = 0.0
        self.tables = Tables()
        self.admission = Admission(self.tables, Limits(**limits), clock=lambda: self.now)  # type: ignore[arg-type]

    def call(self, address: str, session: str) -> bool:
        try:
            asyncio.run(self.admission.admit_call(address, session, waits=True))
        except HTTPException as error:
            assert error.status_code == 429
            return False
        self.tables.calls[session] += 1
        return True

    def enter(self, address: str, session: str | None = None) -> bool:
        return asyncio.run(self.admission.enter(address, session))


def test_calls_that_nobody_reads_stop_their_caller_and_nobody_else() -> None:
    world = World(unread_calls=3)
    assert [world.call(GREEDY, f"s{number}") for number in range(4)] == [True, True, True, False]
    assert world.call(OTHER, "t")
    world.tables.calls["s0"] -= 1  # read
    assert world.call(GREEDY, "s0")


def test_many_callers_together_are_stopped_before_gradio_drops_somebody_elses_messages() -> None:
    world = World(unread_calls_of_all=5)
    answers = [world.call(f"10.1.{number}.1", f"s{number}") for number in range(6)]
    assert answers == [True] * 5 + [False]


def test_a_caller_who_never_reads_is_forgotten_after_a_while() -> None:
    world = World(unread_calls=1, forgotten_after_seconds=100)
    assert world.call(GREEDY, "s") and not world.call(GREEDY, "s")
    world.now = 101
    assert world.call(GREEDY, "new")
    assert world.tables.forgotten == ["s"]


def test_an_open_page_is_kept_however_quiet_it_is_and_a_closed_one_is_not() -> None:
    world = World(forgotten_after_seconds=100)
    assert world.enter(GREEDY, "page")
    world.now = 1000
    assert world.call(OTHER, "x")
    assert "page" not in world.tables.forgotten
    world.admission.leave(GREEDY, "page")
    world.now = 1050
    assert world.call(OTHER, "x")
    assert "page" not in world.tables.forgotten  # a reload, perhaps
    world.now = 1200
    assert world.call(OTHER, "y")
    assert "page" in world.tables.forgotten


def test_who_opens_pages_without_end_loses_their_own_closed_ones_first() -> None:
    world = World(pages=2)
    assert world.enter(OTHER, "theirs") and world.enter(GREEDY, "open")
    world.now = 1
    assert world.call(GREEDY, "closed") and world.call(GREEDY, "third")
    assert world.tables.forgotten == ["closed"]


def test_pages_of_many_addresses_are_bounded_and_open_ones_stay() -> None:
    world = World(pages_of_all=2)
    assert world.enter("10.1.1.1", "open")
    world.now = 1
    assert all(world.call(f"10.2.{number}.1", f"closed{number}") for number in range(3))
    assert world.tables.forgotten == ["closed0", "closed1"]


def test_what_a_forgotten_page_leaves_behind_goes_as_well() -> None:
    world = World()
    world.tables.calls["left behind"] = 1
    world.now = 1000
    assert world.call(OTHER, "x")
    assert world.tables.forgotten == ["left behind"]


def test_open_requests_are_counted_while_they_last() -> None:
    world = World(open_requests=2, open_requests_of_all=3)
    assert [world.enter(GREEDY) for _ in range(3)] == [True, True, False]
    assert world.enter(OTHER) and not world.enter("10.0.0.3")
    world.admission.leave(GREEDY, None)
    assert world.enter(GREEDY)


def test_the_server_answers_429_to_a_caller_who_reads_nothing(serve: Serve) -> None:
    served = serve(Door(), limits=Limits(unread_calls=3))
    chat = number_of(served, CompareTab.on_undo)
    body = {"data": [None], "fn_index": chat, "session_hash": "unread"}
    client = served.visit(ELSEWHERE)
    answers = [client.post("/gradio_api/queue/join", json=body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] and "请求过多" in answers[-1].text
    assert served.visit("10.0.0.9").post("/gradio_api/queue/join", json=body | {"session_hash": "b"}).status_code == 200
    asyncio.run(served.forget("unread"))
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_megabytes_is_refused(serve: Serve, chunked: bool) -> None:
    client = serve(Door(), limits=Limits(body_bytes=1000)).visit()
    body = b'{"data":["' + b"x" * 2000 + b'"]}'
    content = iter([body[:500], body[500:]]) if chunked else body
    answer = client.post("/gradio_api/run/x", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_stop_waits_for_nobody(serve: Serve) -> None:
    """Answers, files and small requests together leave threads for Stop, which stands in no line with them."""
    taken = sum(group["concurrency_limit"] for group in (CHATTING, ASKED, WORKING, FETCHING))
    assert taken + STOPPING["concurrency_limit"] < THREADS
    served = serve(Door())
    functions = served.demo.fns
    stop_training = functions[number_of(served, TrainTab.on_stop)]
    assert stop_training.concurrency_id == STOPPING["concurrency_id"]
    assert asyncio.iscoroutinefunction(functions[number_of(served, CompareTab.on_stop)].fn)
    assert not functions[number_of(served, CompareTab.on_stop)].queue
    groups = {function.concurrency_id for function in functions.values() if function.queue and function.fn}
    named = {group["concurrency_id"] for group in (CHATTING, ASKED, WORKING, FETCHING, STOPPING)}
    unnamed = [
        function.fn.__qualname__
        for function in functions.values()
        if function.queue and function.concurrency_id not in named
    ]
    assert named <= groups and unnamed == ["CompareTab.bind.<locals>.<lambda>"]  # runs when a page is closed
