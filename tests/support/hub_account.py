"""A test's own account on a hub on this machine: nothing that a user has is read, and nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
from stand_in_uploads import TOKEN


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Both hubs' clients ask ``endpoint``."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint)


def use_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a token of the test's own; the real hub's protocol for large files needs a server of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
