"""A process that loads a checkpoint's weights shared, says what came of it, and holds them until it is told to go.

python sharing_process.py CHECKPOINT [JSON of load_model's arguments]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Sharer:
    """That process, seen from a test."""

    def __init__(self, checkpoint: Path, environment: dict[str, str], **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(checkpoint), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": str(REPOSITORY)},
        )

    def facts(self) -> dict[str, Any]:
        """``mapped``, ``total`` (the sum of all weights) and ``pss`` (bytes of the block that are its share)."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.facts()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def main(checkpoint: str, options: dict[str, Any]) -> None:
    import torch

    from chatglm2 import load_model

    model = load_model(checkpoint, shared=True, **options)

    def say() -> None:
        total = sum(float(tensor.double().sum()) for tensor in model.shared_weights.tensors.values())
        mapped = model.shared_weights.mapped
        print(json.dumps({"mapped": mapped, "total": total, "pss": shared_bytes("Pss")}), flush=True)

    say()
    for word in sys.stdin:
        if word.strip() == "write":
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


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
