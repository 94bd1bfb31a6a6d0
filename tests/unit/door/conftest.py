"""The whole application as it is served, without a socket: only where a request comes from is said, not opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from open_door import Served

from app.chat.model_host import ModelOptions
from app.door.door import Door
from app.interface import build_interface
from app.services import Services, build_services
from app.web.admission import Limits

Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, demo_model_dir: Path) -> Iterator[tuple[gr.Blocks, Services, Path]]:
    """The page on services that have loaded nothing. Gradio opens event loops for it and leaves them open."""
    loops: list[asyncio.AbstractEventLoop] = []
    make_loop = asyncio.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loops.append(make_loop())
        return loops[-1]

    output = tmp_path_factory.mktemp("door") / "output"
    services = build_services(ModelOptions(str(demo_model_dir), device="cpu"), output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", new_event_loop)
        patch.setenv("GRADIO_TEMP_DIR", str(output / ".uploads"))
        yield build_interface(services), services, output
    services.training.close()
    asyncio.set_event_loop(None)
    for loop in loops:
        loop.close()


@pytest.fixture(scope="session")
def serve(page: tuple[gr.Blocks, Services, Path]) -> Serve:
    demo, services, output = page

    def build(door: Door, names: tuple[str, ...] = (), limits: Limits | None = None) -> Served:
        return Served(demo, services, output, door, names, limits or Limits())

    return build
