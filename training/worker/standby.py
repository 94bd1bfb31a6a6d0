"""A trainer in reserve: has imported what a training needs, and waits until it is handed a run.

Importing this module is the preparation; nothing here touches a GPU. What it is handed it trains as `alone.work` does
in a process that was started for the run. `training/runs/launch.py` is its other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from chatglm2.files import append_regular
from training.runs.launch import READY, TAKEN
from training.runs.store import Run
from training.worker.alone import work


def stand_by(descriptor: int) -> int:
    """Wait on a socket for a run and train it; returns the process's exit code.

    Where the socket's other end closes first, whoever might have had a run for this process is gone, and so is it.
    """
    with socket.socket(fileno=descriptor) as starter:
        with contextlib.suppress(OSError):  # a run may have been handed over before whoever did it went
            starter.sendall(READY)
        with starter.makefile(encoding="utf-8") as messages:
            message = messages.readline()
        if not message.endswith("\n"):
            return 0
        directory = Path(json.loads(message)["run"])
        _speak_into(Run(directory).log_file)
        with contextlib.suppress(OSError):
            starter.sendall(TAKEN)
    return work(directory)


def _speak_into(log: Path) -> None:
    """What this process and its libraries print goes to ``log`` from now on."""
    with append_regular(log) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
