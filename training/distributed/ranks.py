"""The processes that train together, as one of them sees it: who it is, and how they agree.

Knows torchrun's environment, the store that outlives each process, and a channel beside the gradients' own. Knows
nothing about what is trained.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from chatglm2.errors import RunError

logger = logging.getLogger(__name__)
T = TypeVar("T")
# One process may take this long over something, such as writing a large checkpoint, while the others wait.
PATIENCE = timedelta(minutes=30)
# Creating or resuming a run takes the first one seconds.
START_PATIENCE = timedelta(minutes=2)
WATCH_SECONDS = 0.5
# A process shows that it lives far more often than this. One that was killed closes its connections, which the others
# see at once; one whose machine is gone, or that is suspended, closes nothing.
LOST_SECONDS = 60.0
FAILURE, BEGUN, ALIVE, OVER = "failure", "begun", "alive/", b"over"
# How the channel says that another process is gone.
LOST_CONNECTION = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset",
    "Connection refused",
    "Broken pipe",
)


@dataclass(frozen=True)
class Ranks:
    """The processes of one training; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device | None = None  # of this process; None where it may choose
    store: Any = None  # torch's key-value store, in the launcher's process
    channel: Any = field(default=None, repr=False)  # a gloo group: decisions do not wait for a GPU

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The first process's ``value``, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.channel, device=torch.device("cpu"))
        shared: T = box[0]
        return shared

    def share_first(self, value: T) -> T:
        """As `share`, for the beginning, which nobody watches yet.

        Raises:
            RunError: if the first process does not come to it.
        """
        if self.size > 1 and self.is_first:
            self.store.set(BEGUN, "")
        elif self.size > 1:
            try:
                self.store.wait([BEGUN], START_PATIENCE)
            except RuntimeError as error:  # what torch's stores raise is one
                raise _not_begun() from error
        return self.share(value)

    def decide(self, wanted: bool) -> bool:
        """The first process's decision, in all of them; quick enough for every step."""
        if self.size == 1:
            return wanted
        box = torch.tensor([wanted], dtype=torch.uint8)
        dist.broadcast(box, src=0, group=self.channel)
        return bool(box.item())

    def total(self, value: int) -> int:
        """The sum of every process's ``value``."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.long)
        dist.all_reduce(box, group=self.channel)
        return int(box.item())

    def totals(self, values: Tensor) -> Tensor:
        """The sums of every process's ``values``, a tensor on the CPU."""
        if self.size > 1:
            dist.all_reduce(values, group=self.channel)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier(group=self.channel)

    def report_failure(self, words: Mapping[str, Any]) -> None:
        """Tell the others why this process ends; the first to tell is believed."""
        if self.store is not None:
            self.store.compare_set(FAILURE, "", json.dumps(words, ensure_ascii=False))

    def failure(self, patience_seconds: float = 0.0) -> dict[str, Any] | None:
        """Why a process ended, if one did and could say so; waits a little for the word."""
        return _failure(self.store, patience_seconds)

    @contextmanager
    def watching(self, on_failure: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Call ``on_failure``, from a thread, when a process fails or shows no life: collectives would wait for it.

        It is given the words of the process that failed, or what there is to say of one that is lost.
        """
        if self.store is None:
            yield
            return
        over = threading.Event()
        store = self.store.clone()  # a connection of its own: the other one may be busy
        pulse = Pulse(store, self.rank, self.size)

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                try:
                    pulse.beat()
                    lost = pulse.lost()
                    if lost is not None:
                        self._report_lost(store, lost)
                    words = _failure(store, 0.0)
                except (dist.DistError, RuntimeError):  # the launcher is gone, and the store with it
                    return
                if words is not None and not over.is_set():
                    on_failure(words)
                    return
            with contextlib.suppress(dist.DistError, RuntimeError):
                pulse.end()

        thread = threading.Thread(target=watch, name="watching the other processes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()  # a thread inside torch's store would abort an interpreter that ends

    def _report_lost(self, store: Any, rank: int) -> None:
        words = _lost(rank, self.size)
        logger.error("%s", words["en"])
        store.compare_set(FAILURE, "", json.dumps(words, ensure_ascii=False))


class Pulse:
    """Shows the others that this process lives, and tells which of them has not for long, by this process's clock."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._beats = 0
        self._seen: dict[int, tuple[bytes, float]] = {
            other: (b"", time.monotonic()) for other in range(size) if other != rank
        }

    def beat(self) -> None:
        """This process lives."""
        self._beats += 1
        self._store.set(f"{ALIVE}{self._rank}", str(self._beats))

    def end(self) -> None:
        """This process is done, and shows nothing from now on."""
        self._store.set(f"{ALIVE}{self._rank}", OVER)

    def lost(self) -> int | None:
        """A process that has shown no life for `LOST_SECONDS`."""
        now = time.monotonic()
        for other, (last, since) in self._seen.items():
            key = f"{ALIVE}{other}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if beat != last:
                self._seen[other] = beat, now
            elif beat != OVER and now - since > LOST_SECONDS:
                return other
        return None


ALONE = Ranks()


def join_ranks(device: str) -> Ranks:
    """Meet the other processes that torchrun started.

    Args:
        device: what ``--device`` says.

    Raises:
        RunError: if there are more processes than GPUs.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device != "cpu" and (on_gpu or local_size > 1):
        _require_gpus(local_size)
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    store, rank, size = next(iter(rendezvous("env://")))
    store.set_timeout(PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=PrefixStore("training", store), rank=rank, world_size=size)
    channel = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Ranks(rank, size, local_rank, local_size, place, store, channel)


def is_lost_connection(error: Exception) -> bool:
    """Whether ``error`` only says that another process is gone."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST_CONNECTION)


def leave_ranks() -> None:
    """End what `join_ranks` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _require_gpus(processes: int) -> None:
    found = torch.cuda.device_count()
    if processes <= found:
        return
    raise RunError(
        f"{processes} processes were asked for, each with a GPU of its own, but this machine has {found}. Use "
        f"--nproc_per_node {max(found, 1)} (NUM_GPUS in the scripts), or --device cpu.",
        f"要求启动 {processes} 个进程，每个进程需要一张 GPU，但本机只有 {found} 张。"
        f"请使用 --nproc_per_node {max(found, 1)}（脚本中为 NUM_GPUS），或 --device cpu。",
    )


def _failure(store: Any, patience_seconds: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + patience_seconds
    while store is not None:
        if store.check([FAILURE]):
            words: dict[str, Any] = json.loads(store.get(FAILURE))
            return words
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    return None


def _lost(rank: int, size: int) -> dict[str, Any]:
    return {
        "en": f"Process {rank} of the {size} (counted from 0) has shown no life for {LOST_SECONDS:.0f} s: its machine "
        "is gone, or it is suspended. Resume the run from its last checkpoint.",
        "zh": f"{size} 个进程中的第 {rank} 个（从 0 数起）已 {LOST_SECONDS:.0f} 秒没有任何响应：所在机器可能已断开，"
        "或进程被挂起。请从最后一个检查点继续训练。",
    }


def _not_begun() -> RunError:
    seconds = START_PATIENCE.total_seconds()
    error = RunError(
        f"The first process has not begun the run within {seconds:.0f} s. Look at what it printed, and start again.",
        f"第一个进程在 {seconds:.0f} 秒内没有开始训练。请查看它的输出，然后重新启动。",
    )
    logger.error("%s", error.en)  # the first process speaks for all, and may be gone
    return error
