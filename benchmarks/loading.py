"""Loading a checkpoint in each precision: seconds, speed against a plain read of its files, and peak host memory.

    python -m benchmarks.make_checkpoint --like DIR --output CHECKPOINT [--layers N]
    python -m benchmarks.loading --model CHECKPOINT

Every measurement is a process of its own and reads from the disk: the files are taken out of the page cache before it.
Memory is the process's own above what it had before, without files that are mapped, whose pages the system takes back
when it wants them; what stays resident are the weights, on a GPU nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import chatglm2
from benchmarks.common import report, synchronize
from chatglm2.checkpoints.loading import default_device, find_shards

READ_BYTES = 16 * 2**20
SAMPLING_SECONDS = 0.002
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", choices=(0, 4, 8), default=[0, 8, 4], help="0: not quantized")
    parser.add_argument("--device", help="cpu or cuda; if not given, a CUDA device if there is one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="leave the files in the page cache")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)  # the process that measures
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(load_once(arguments.model, arguments.bits[0], arguments.device)))
        return
    files = find_shards(arguments.model)
    size = sum(file.stat().st_size for file in files)
    reading: list[float] = []
    loading: dict[int, list[dict[str, Any]]] = {bits: [] for bits in arguments.bits}
    for _ in range(arguments.rounds):  # in turns: what slows the machine slows all of them
        prepare(files, arguments.warm)
        reading.append(read_plainly(files))
        for bits, results in loading.items():
            prepare(files, arguments.warm)
            results.append(load_in_own_process(arguments.model, bits, arguments.device))
    read_seconds = statistics.median(reading)
    for bits, results in loading.items():
        seconds = statistics.median(result["seconds"] for result in results)
        report(
            "loading",
            bits=bits or None,
            to=results[0]["device"],
            cached=arguments.warm,
            checkpoint_gib=size / GIB,
            seconds=seconds,
            gib_per_second=size / GIB / seconds,
            plain_read_gib_per_second=size / GIB / read_seconds,
            speed_of_plain_read=read_seconds / seconds,
            resident_gib=results[0]["resident"] / GIB,
            peak_over_resident_gib=max(result["over_resident"] for result in results) / GIB,
            gpu_gib=results[0]["gpu"] / GIB,
        )


def prepare(files: list[Path], warm: bool) -> None:
    """Have the files in the page cache, or not."""
    if warm:
        read_plainly(files)
    elif hasattr(os, "posix_fadvise"):
        for file in files:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)  # pages that are still to be written stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_plainly(files: list[Path]) -> float:
    """Seconds to read the files from start to end."""
    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):  # type: ignore[attr-defined]
                pass
    return time.perf_counter() - start


def load_in_own_process(model: Path, bits: int, device: str | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loading", "--once", "--model", str(model), "--bits", str(bits)]
    command += ["--device", device] if device else []
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def load_once(path: Path, bits: int, device: str | None) -> dict[str, Any]:
    """Load, and watch what memory it takes."""
    target = torch.device(device) if device else default_device()
    torch.zeros(1, device=target)  # what CUDA itself takes is not the load's
    before = own_memory()
    watch = MemoryWatch()
    start = time.perf_counter()
    model = chatglm2.load_model(path, quantization_bit=bits or None, device=target, dtype=half_dtype(target))
    synchronize()
    seconds = time.perf_counter() - start
    peak = watch.stop()
    resident = sum(tensor.nbytes for tensor in model.state_dict().values() if tensor.device.type == "cpu")
    return {
        "seconds": seconds,
        "device": str(model.device),
        "resident": resident,
        "over_resident": peak - before - resident,
        "gpu": torch.cuda.memory_allocated() if target.type == "cuda" else 0,
    }


def half_dtype(device: torch.device) -> torch.dtype:
    """The half precision that is fast there."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def own_memory() -> int:
    """Bytes of this process that are not mapped files."""
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)


class MemoryWatch:
    """The most memory that there was, seen many times a second."""

    def __init__(self) -> None:
        self._peak = own_memory()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLING_SECONDS):
            self._peak = max(self._peak, own_memory())

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return max(self._peak, own_memory())


if __name__ == "__main__":
    main()
