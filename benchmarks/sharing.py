"""One copy of the weights in two processes: how soon the second has them, and what each accounts for.

    python -m benchmarks.make_checkpoint --like DIR --output CHECKPOINT --layers 2      # real widths
    python -m benchmarks.sharing --model CHECKPOINT [--model assets/demo-model]

On a CPU each process's proportional share (PSS) of the shared block is read from the system: together one block. On a
GPU `benchmarks.one_card` measures the same on the card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import report
from chatglm2 import load_model

MIB = 2**20
BLOCK = "chatglm2-weights"


class Holder:
    """A process that loads a checkpoint, touches all its weights, and holds them."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "benchmarks.sharing", "--hold", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> dict[str, float]:
        """What it says next; first once it has its weights."""
        assert self._process.stdout is not None
        facts: dict[str, float] = json.loads(self._process.stdout.readline())
        return facts

    def ask(self) -> dict[str, float]:
        """The same once more, now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.hear()

    def close(self) -> None:
        self._process.communicate("")


def hold(model: str) -> None:
    """This process is a `Holder`'s."""
    began = time.perf_counter()
    loaded = load_model(model, device="cpu", shared=True)
    seconds = time.perf_counter() - began
    weights = loaded.shared_weights
    for tensor in weights.tensors.values():  # what was never read is not resident
        torch.sum(tensor.view(torch.uint8), dtype=torch.long)
    facts = {"seconds": seconds, "mapped": weights.mapped, "block_mib": weights.size / MIB}
    print(json.dumps({**facts, "pss_mib": block_pss_mib()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({**facts, "pss_mib": block_pss_mib()}), flush=True)


def block_pss_mib() -> float:
    """This process's share of the block, as the system accounts for it."""
    kilobytes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ")[0] and line[0] in "0123456789abcdef":
            inside = BLOCK in line
        elif inside and line.startswith("Pss:"):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


def measure(model: str) -> None:
    first = Holder(model)
    try:
        loaded = first.hear()
        second = Holder(model)
        try:
            mapped = second.hear()
            shares = [first.ask()["pss_mib"], second.ask()["pss_mib"]]
        finally:
            second.close()
    finally:
        first.close()
    report(
        "sharing",
        model=Path(model).name,
        block_mib=loaded["block_mib"],
        first_seconds=loaded["seconds"],
        second_seconds=mapped["seconds"],
        second_mapped=mapped["mapped"],
        pss_mib=[round(share, 1) for share in shares],
        copies=sum(shares) / loaded["block_mib"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--hold", help=argparse.SUPPRESS)  # the process that is measured
    arguments = parser.parse_args()
    if arguments.hold:
        hold(arguments.hold)
        return
    for model in arguments.model:
        measure(model)


if __name__ == "__main__":
    main()
