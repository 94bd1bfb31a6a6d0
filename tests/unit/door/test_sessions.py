"""What an open page takes of the server's memory: what is its own, and no copy of what all pages have."""

from __future__ import annotations

import asyncio

import pytest
from gradio.state_holder import SessionState
from open_door import Served

from app.door.door import Door
from app.tabs.train import TrainTab

from .conftest import Serve
from .test_routes import number_of


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(Door())


def load(served: Served, name: str) -> SessionState:
    """Opens a page as a browser does, as far as its server is asked."""
    client = served.visit()
    values = {part["id"]: part["props"].get("value") for part in client.get("/config").json()["components"]}
    for number, function in served.demo.fns.items():
        if function.fn and (number_of(served, TrainTab.on_tick) == number or "load" in dict(function.targets).values()):
            data = [values.get(component._id) for component in function.inputs]
            body = {"data": data, "fn_index": number, "session_hash": name}
            assert client.post("/gradio_api/run/predict", json=body).status_code == 200
    return served.demo.state_holder.session_data[name]


def test_pages_have_one_copy_of_what_is_alike_in_them_and_none_of_what_nobody_reads(served: Served) -> None:
    pages = [load(served, f"page{number}") for number in range(2)]
    own = [set(map(id, page.blocks_config.blocks.values())) for page in pages]
    changed = own[0] - set(map(id, served.demo.blocks.values()))
    assert len(changed) > 10, "what a page is told at first makes components anew"
    assert own[0] == own[1]
    assert not any(page.config_values for page in pages)


def test_pages_that_differ_keep_their_own(served: Served) -> None:
    first, second = (load(served, name) for name in ("first", "second"))
    choice = next(key for key, block in served.demo.blocks.items() if block.elem_id == "left-model")
    known = first[choice]
    second[choice] = type(known)(choices=[("only here", "only here")], render=False)
    assert first[choice] is known
    assert second[choice].choices == [("only here", "only here")]


def test_nothing_of_a_page_is_kept_once_it_is_forgotten(served: Served) -> None:
    load(served, "gone")
    sessions = served.demo.state_holder
    assert "gone" in sessions and sessions.time_last_used["gone"]
    asyncio.run(served.forget("gone"))
    assert "gone" not in sessions and "gone" not in sessions.time_last_used
