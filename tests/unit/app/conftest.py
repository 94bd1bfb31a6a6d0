"""What tests of the page share: the demo model, loaded once for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.chat.model_host import ModelHost, ModelOptions


@pytest.fixture(scope="module")
def host(demo_model_dir: Path) -> Iterator[ModelHost]:
    host = ModelHost(ModelOptions(str(demo_model_dir), device="cpu"))
    host.start()
    assert host.wait(60)
    yield host
    host.close()
