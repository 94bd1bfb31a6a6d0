"""How the page ends: answers first, then connections, and the process in any case.

Knows in which order, and how long each may take. Training goes on: a trainer is a process of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import gradio as gr

from app.services import Services

logger = logging.getLogger(__name__)

# All of it; who manages services loses patience after ten, most often.
MOST_SECONDS = 4.5
# When the system ends the process.
LAST_SECONDS = 4.9
# What panes take to show that their answers have ended.
PANE_SECONDS = 2.0
# What the last messages take to their browsers.
SENDING_SECONDS = 0.5
# What connections that stay open, such as every open page has, are waited for.
CONNECTION_SECONDS = 0.5
# A step of a large model on a CPU, or a model that is still loading, may take longer than anybody waits.
COMPUTING_SECONDS = 0.5


def end(demo: gr.Blocks, services: Services) -> None:
    """End what the page runs; does not return where something of it cannot be interrupted."""
    late = threading.Timer(MOST_SECONDS, _leave)  # never cancelled: what Python does at its end takes time, too
    late.daemon = True
    late.start()
    services.line.close()
    has_ended = services.host.close(0)  # answers end where they are, before their connections do
    if services.chat.wait_until_quiet(PANE_SECONDS):
        threading.Event().wait(SENDING_SECONDS)
    _close_server(demo)
    services.training.close()
    has_ended = has_ended or services.host.close(COMPUTING_SECONDS)
    if not has_ended:
        # A thread that is inside torch when the interpreter ends takes the whole process down with it.
        _leave()


def set_alarm(seconds: float = LAST_SECONDS) -> None:
    """Have the system end this process in so many seconds, whatever it does then.

    A thread that is to end it needs its turn among all others first, which takes seconds on a busy machine.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _close_server(demo: gr.Blocks) -> None:
    server: Any = demo.server

    def cut() -> None:
        # Each connection that is cut would be told as a program's fault.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.force_exit = True

    impatient = threading.Timer(CONNECTION_SECONDS, cut)
    impatient.daemon = True
    impatient.start()
    demo.close(verbose=False)
    impatient.cancel()


def leave(code: int) -> NoReturn:
    """End the process as Python does, but for taking apart every module, which costs seconds with torch among them."""
    atexit._run_exitfuncs()
    _exit(code)


def _leave() -> None:
    logger.info("The page ends without waiting for what is being computed.")
    _exit(0)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
