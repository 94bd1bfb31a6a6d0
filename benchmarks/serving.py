"""A page of this machine, for benchmarks that talk to one."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from training.settings.samples import DEMO_MODEL

START_SECONDS = 120


def serve(output: Path, model: Path = DEMO_MODEL) -> tuple[subprocess.Popen[bytes], str]:
    """A page on a free port, once its model answers, and its address; ``output`` gets its log, too.

    Raises:
        RuntimeError: it did not start; the message is what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--model", str(model), "--port", str(port), "--output", str(output), "--device", "cpu"]
    with (output / "page.log").open("wb") as log:
        page = subprocess.Popen([sys.executable, "-m", "app", *words], stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/healthz", timeout=5).json()["model"] == "ready":
                return page, url
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.2)
    page.kill()
    raise RuntimeError((output / "page.log").read_text(encoding="utf-8"))
