"""A process that loads a checkpoint's weights shared, says what came of it, and holds them until it is told to go."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from forked import FORKS


class Sharer:
    """That process, seen from a test."""

    def __init__(self, checkpoint: Path, environment: dict[str, str], **options: Any) -> None:
        # What a GPU does in a fork is the driver's business: there, a process begins from nothing.
        context = multiprocessing.get_context("spawn") if options.get("device") == "cuda" else FORKS
        self._pipe, theirs = context.Pipe()
        arguments = (str(checkpoint), environment, options, theirs)
        self.process = context.Process(target=_hold, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def facts(self) -> dict[str, Any]:
        """``mapped``, ``total`` (the sum of all weights) and ``pss`` (bytes of the block that are its share)."""
        return self._pipe.recv()

    def ask(self, word: str) -> dict[str, Any]:
        self._pipe.send(word)
        return self.facts()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._pipe.close()


def _hold(checkpoint: str, environment: dict[str, str], options: dict[str, Any], pipe: Connection) -> None:
    os.environ.update(environment)
    import torch

    from chatglm2 import load_model

    model = load_model(checkpoint, shared=True, **options)

    def say() -> None:
        total = sum(float(tensor.double().sum()) for tensor in model.shared_weights.tensors.values())
        pipe.send({"mapped": model.shared_weights.mapped, "total": total, "pss": shared_bytes("Pss")})

    say()
    while True:
        if pipe.recv() == "write":
            with torch.no_grad():
                model.transformer.output_layer.weight.fill_(1.0)
        say()


def shared_bytes(kind: str) -> int:
    """Bytes of the block that this process accounts for, as the system sees it."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split(" ")[0]:
            inside = "chatglm2-weights" in line
        elif inside and line.startswith(f"{kind}:"):
            found += 1024 * int(line.split()[1])
    return found
