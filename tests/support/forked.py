"""Processes that need not import torch: they are forked from a server that has, and run what they would have run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# What the server imports, once a session. Nothing there may touch a GPU, which no fork of it could use then.
FORKS.set_forkserver_preload(["training.cli.train", "training.worker.standby", "training.worker.together"])


class ForkedTrainer:
    """What `subprocess.Popen` is for `training.runs.launch`: a trainer in a session of its own, as its command says."""

    def __init__(
        self,
        command: list[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: Any,
        pass_fds: tuple[int, ...] = (),
        **options: object,
    ) -> None:
        assert command[:3] == [sys.executable, "-m", "training.main"] and options["start_new_session"]
        *words, last = command[3:]
        sockets = [socket.socket(fileno=os.dup(number)) for number in pass_fds]
        ours, theirs = FORKS.Pipe()
        output = str(Path(getattr(stdout, "name", os.devnull)).resolve())
        arguments = (words, sockets[0] if sockets else last, str(cwd), dict(env), output, theirs)
        self._process = FORKS.Process(target=_be_a_trainer, args=arguments, daemon=True)
        self._process.start()
        self._lock = threading.Lock()
        assert self._process.pid is not None
        self.pid = self._process.pid
        for end in (theirs, *sockets):
            end.close()
        with ours:
            ours.recv()  # its session is its own: whoever ends it ends the whole session

    def wait(self) -> int | None:
        """Its exit code, once it has ended."""
        wait([self._process.sentinel])
        return self.poll()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        with self._lock:
            return self._process.exitcode


def _be_a_trainer(
    words: list[str], last: str | socket.socket, cwd: str, environment: dict[str, str], output: str, starter: Connection
) -> None:
    gc.freeze()
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with Path(output).open("ab") as sink:
        for stream in (1, 2):
            os.dup2(sink.fileno(), stream)
    starter.send("ready")
    starter.close()

    from training.cli.train import main

    sys.exit(main([*words, last if isinstance(last, str) else str(last.detach())]))
