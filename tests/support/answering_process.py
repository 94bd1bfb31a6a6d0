"""A process that answers from a checkpoint as a page does: shared weights, an engine that lends its memory.

python answering_process.py CHECKPOINT DEVICE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# Prompts that begin differently: nothing of one is found in the cache for another, so that all are computed alike.
PROMPTS = [[first, *range(20, 40)] for first in range(5, 9)]


class Answerer:
    """That process, seen from a test; it is there once it has said its first word."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        paths = (str(REPOSITORY), os.environ.get("PYTHONPATH"))  # packages may lie elsewhere
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(checkpoint), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    def hear(self) -> dict[str, Any]:
        """First ``mapped``, then what was asked for."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process that answers is gone"
        return json.loads(line)

    def ask(self, tokens: int, which: int = 0) -> list[int]:
        """The reply to one of `PROMPTS`, so many tokens long."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{tokens} {which}\n")
        self.process.stdin.flush()
        return self.hear()["reply"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def greedy(tokens: int, which: int = 0) -> Any:
    """A request whose reply is the same every time."""
    from chatglm2 import Request, SamplingParams

    return Request(PROMPTS[which], sampling=SamplingParams(temperature=0, max_new_tokens=tokens))


def build_engine(checkpoint: Path | str, device: str) -> Any:
    """An engine on shared weights whose replies do not end early."""
    from chatglm2 import Engine, load_model

    model = load_model(checkpoint, device=device, dtype="float16" if device == "cuda" else "float32", shared=True)
    model.config.eos_token_id = None
    engine = Engine(model, slots=2, max_length=512)
    engine.open_to_borrowers()
    return engine


def main(checkpoint: str, device: str) -> None:
    engine = build_engine(checkpoint, device)
    print(json.dumps({"mapped": engine.model.shared_weights.mapped}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"reply": list(engine.submit(greedy(*map(int, line.split()))))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
