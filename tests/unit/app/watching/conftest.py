"""The Train tab on a page whose model never loads: what is shown of runs needs none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from past_runs import write_past_run

from app.chat.model_host import ModelOptions
from app.places import places_for
from app.services import Services, build_services
from app.tabs.train import TrainTab
from app.tabs.training.kept import KeptLooks
from app.text.languages import LANGUAGE_COOKIE
from training.runs.store import RunStore


@pytest.fixture
def request_in() -> Any:
    """A request in a language."""
    return lambda language="en": SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})


@pytest.fixture
def services(demo_model_dir: Path, tmp_path: Path) -> Services:
    """Services with two runs that are over: ``old`` and, after it, ``new``."""
    services = build_services(
        ModelOptions(str(demo_model_dir), device="cpu"), tmp_path, places_for(tmp_path, data=[tmp_path])
    )
    for name in ("old", "new"):
        write_past_run(tmp_path, demo_model_dir, name)
    return services


@pytest.fixture
def store(services: Services, tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture
def train(services: Services, page: gr.Blocks) -> TrainTab:
    return TrainTab(services, KeptLooks())
