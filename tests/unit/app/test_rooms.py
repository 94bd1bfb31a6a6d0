"""What the app's rooms promise to know nothing of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("room", ["chat", "training", "text"])
def test_a_room_below_the_page_works_without_gradio(repository: Path, room: str) -> None:
    files = [path for path in (repository / "app" / room).rglob("*.py") if path.stem[0] != "_"]
    modules = [".".join(path.relative_to(repository).with_suffix("").parts) for path in files]
    assert modules
    script = f"import sys, {', '.join(modules)}; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=repository, check=False).returncode == 0
