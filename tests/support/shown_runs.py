"""All that the page asks of a folder of runs, without a page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.chat.sources import PrefixLoader, SourceLibrary
from app.places import places_for
from app.tabs.train import fingerprint
from app.text.languages import Speech
from app.training.service import TrainingService
from app.views.chat_view import menu
from app.views.checkpoint_table import checkpoint_table
from app.views.run_figures import loss_html, more_curves_html, ready_html, retention_html, run_html
from training.runs.store import RunStore

EN = Speech("en")


def library(output: Path) -> SourceLibrary:
    unused: Any = None
    return SourceLibrary(RunStore(output), PrefixLoader(unused, unused, unused), output, places_for(output))


def show_everything(output: Path) -> str:
    """What every tab asks for at every tick; returns the table of checkpoints."""
    sources = library(output)
    menu(sources.sources(), EN)
    sources.newest("/some/model")
    unused: Any = SimpleNamespace(defaults={})
    service = TrainingService(RunStore(output), unused, output, unused, places_for(output))
    names = service.names()
    assert "good" in names
    service.active()
    for view in map(service.view, names):
        fingerprint(view, names)
        for draw in (run_html, loss_html, more_curves_html, ready_html, retention_html):
            draw(view, EN)
    return str(checkpoint_table(sources.sources(), {}, EN, sources.broken()))
