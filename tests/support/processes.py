"""Trainings in several processes on CPUs, as torchrun would start them, from a server that has imported torch once."""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from forked import FORKS


def start_ranks(
    count: int, arguments: list[str], directory: Path, failing_rank: int | None = None
) -> list[BaseProcess]:
    """Start ``count`` processes that train together, without dropout; what they print goes to ``rank-N.txt``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        FORKS.Process(target=_run_rank, args=(rank, count, port, arguments, directory, failing_rank))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    return ranks


def train_in_ranks(count: int, arguments: list[str], directory: Path) -> None:
    """Train to the end in ``count`` processes."""
    ranks = start_ranks(count, arguments, directory)
    for rank, process in enumerate(ranks):
        process.join(120)
        assert process.exitcode == 0, said_by(rank, directory)


def said_by(rank: int, directory: Path) -> str:
    """What a process printed."""
    return (directory / f"rank-{rank}.txt").read_text(encoding="utf-8")


def _run_rank(
    rank: int, count: int, port: int, arguments: list[str], directory: Path, failing_rank: int | None
) -> None:
    output = (directory / f"rank-{rank}.txt").open("w", encoding="utf-8", buffering=1)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout = sys.stderr = output
    os.environ |= {
        **{"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "LC_ALL": "C"},
    }
    import torch

    from chatglm2.model import prefix
    from training.cli.train import main

    torch.set_num_threads(1)
    prefix.PREFIX_DROPOUT = 0.0
    if rank == failing_rank:
        _fail_at_step_3()
    sys.exit(main(arguments))


def _fail_at_step_3() -> None:
    from chatglm2.errors import RunError
    from training.loop.health import HealthGuard

    look = HealthGuard.on_pre_optimizer_step

    def failing(self: HealthGuard, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        look(self, args, state, control, **kwargs)
        if state.global_step == 2:
            raise RunError("The third step failed here.", "第 3 步在此失败。")

    HealthGuard.on_pre_optimizer_step = failing  # type: ignore[method-assign]
