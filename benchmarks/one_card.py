"""Graphics cards of several sizes, the whole job: serve, chat, click to train, chat on, load the checkpoint, compare.

    python -m benchmarks.one_card --model DIR --rows ROWS.json                      # 24, 16, 12, 10, 8 and 6 GiB
    python -m benchmarks.one_card --model DIR --rows ROWS.json --cards 24 8:4       # FP16 on 24 GiB, INT4 on 8
    python -m benchmarks.one_card --model DIR --rows ROWS.json --cards 0            # the card as it is

Prints a JSON line a fact, and exits with 0 where all of it worked. A card is made small by another process, which takes
the rest first; its own context is left out of the count. Each card is a process of its own, and all keep their compiled
kernels in one new folder: the first start in a precision compiles them, the next finds them. Drives what the page
drives (`app.services`), so that what fails here fails on a click. What a card's memory will be used for is said before
anything starts, and compared with what was measured, line by line. The model is a checkpoint, or one of random weights
by `benchmarks.make_checkpoint`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.chat.model_host import ModelOptions
from app.services import Services, build_services
from app.training.service import DataChoice
from chatglm2 import ChatSession, Prefix, SamplingParams
from chatglm2.checkpoints.loading import read_config
from training.plan.forecast import MemoryForecast, forecast_memory, serving_lines
from training.plan.step_plan import place_for
from training.runs.events import MemoryEvent, last_event
from training.runs.store import Run, Status
from training.settings.train import TrainingSettings

CARDS = ("24", "16", "12:4", "10:4", "8:4", "6:4")
MIB = 2**20
QUESTION = "类型#上衣*材质#牛仔布*颜色#白色*风格#简约"
TRAINING = {"preset": "adgen", "max_steps": 60, "logging_steps": 20}
LOOKS_A_SECOND = 20
REPLY_TOKENS = 150
# Columns of both panes' conversations: a prompt of two lines, a reply, and a prefix.
COLUMNS = 2 * (60 + REPLY_TOKENS) + 128
# Run by another process, which holds the rest of the card until it is killed.
TAKE_THE_REST = """
import sys, time, torch
torch.zeros(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
taken = [torch.empty(int((free - float(sys.argv[1]) * 2**30) // 4), dtype=torch.uint8, device="cuda") for _ in range(4)]
print("taken", flush=True)
time.sleep(100000)
"""

# A second process on the weights that the page holds: how soon it has them, and what they take of the card again.
SECOND = """
import json, sys, time, torch
from chatglm2 import load_model
bits = int(sys.argv[2]) or None
torch.zeros(1, device="cuda")
free, began = torch.cuda.mem_get_info()[0], time.perf_counter()
model = load_model(sys.argv[1], quantization_bit=bits, device="cuda", shared=True)
torch.cuda.synchronize()
seconds = time.perf_counter() - began
taken = (free - torch.cuda.mem_get_info()[0]) / 2**20
print(json.dumps({"seconds": round(seconds, 3), "taken_mib": round(taken), "mapped": model.shared_weights.mapped}))
"""


class Job:
    """A card of some size, and what is said of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._facts = {"benchmark": "one card", "card_gib": options.card_gib, "quantization_bit": options.bits or 0}
        self.expected: dict[str, float] = {}  # MiB
        self.measured: dict[str, float] = {}

    def say(self, event: str, **facts: Any) -> None:
        print(json.dumps({**self._facts, "event": event, **facts}, ensure_ascii=False), flush=True)

    def run(self) -> bool:
        """The whole job; False where a part of it failed."""
        options, before = self.options, used_mib()
        self._foresee()
        model = ModelOptions(path=options.model, quantization_bit=options.bits, device="cuda")
        services = build_services(model, Path(tempfile.mkdtemp()))
        started = time.perf_counter()
        services.host.start()
        services.host.wait(600)
        state, seconds = services.host.state, round(time.perf_counter() - started, 1)
        self.say("served", seconds=seconds, error=str(state.error or ""), used_mib=used_mib())
        if state.error is not None:
            return False
        session = services.host.session
        engine = session.engine
        self.say("kernels", seconds=round(engine.compile_seconds, 1), start=options.start)
        self.say("second process", **second_process(options.model, options.bits or 0))
        session.engine.model.config.eos_token_id = None  # replies of random weights must not end early
        chat(session, [None, None], 20)
        alone = chat(session, [None, None], REPLY_TOKENS)
        self.say("chat alone", **alone)
        weights, torchs = engine.model.shared_weights.size / MIB, torch.cuda.memory_reserved() / MIB
        conversations = engine.lendable_bytes() / MIB - torch.cuda.mem_get_info()[0] / MIB - _unused_mib()
        self.measured["page: weights"] = weights
        self.measured["page: conversations"] = conversations
        self.measured["page: context and working"] = used_mib() - before - weights - conversations
        self.say("page's torch", reserved_mib=round(torchs))
        try:
            return self._train(services, session, alone["tokens_per_second_each"])
        finally:
            services.training.close()
            services.host.close()

    def _foresee(self) -> None:
        """What the card's memory will be used for, before anything is."""
        options = self.options
        settings = TrainingSettings.from_dict(
            {**TRAINING, "train_file": str(options.rows), "quantization_bit": options.bits, "dtype": "float16"}
        )
        device, config = torch.device("cuda"), read_config(Path(options.model))
        page = serving_lines(config, 2, options.bits or 0, device, COLUMNS)
        card = options.card_gib * 2**30 or torch.cuda.mem_get_info()[0]
        free = int(card) - sum(page.values()) + page["conversations"]
        run = forecast_memory(place_for(settings, config, device), settings, free, has_weights=True)
        self.expected = {
            "page: weights": page["weights"] / MIB,
            "page: conversations": page["conversations"] / MIB,
            "page: context and working": (page["context"] + page["working"]) / MIB,
            "run: context": run.lines["context"] / MIB,
            "run: tensors": (run.total - run.lines["context"] - run.lines["allocator"]) / MIB,
            "run: allocator": run.lines["allocator"] / MIB,
            "whole job": (sum(page.values()) + run.total) / MIB,
        }
        lines = {name: round(count / MIB) for name, count in run.lines.items()}
        self.say("forecast", fits=run.fits, rows=_rows(run, settings), recomputes=run.plan.recomputes, run_mib=lines)

    def compare(self, peak_mib: int) -> None:
        """The error of each line of the forecast, and of the whole."""
        if "run: tensors" in self.measured:
            self.measured["run: context"] = peak_mib - sum(self.measured.values())
            self.measured["whole job"] = peak_mib
        for name, expected in self.expected.items():
            found = self.measured.get(name)
            if found is not None:
                error = round(100 * (expected / found - 1), 1) if found > 0 else None
                self.say(
                    "line", line=name, forecast_mib=round(expected), measured_mib=round(found), error_percent=error
                )

    def _train(self, services: Services, session: ChatSession, alone: float) -> bool:
        data = DataChoice(str(self.options.rows.resolve()))
        pace = services.training.cost(data, TRAINING).pace
        self.say("cost before the click", seconds_per_step=round(pace.seconds_per_step, 3), measured=pace.measured)
        clicked = time.perf_counter()
        run = services.training.start(data, TRAINING, None)
        talks = 0
        while (view := services.training.view(run.name)).status.is_active:
            if view.step and not talks:
                self.say("first step", seconds_after_click=round(time.perf_counter() - clicked, 1), used_mib=used_mib())
            if view.step and talks < 3:
                talks += 1
                during = chat(session, [None, None], 100)
                share = round(during["tokens_per_second_each"] / alone, 2)
                self.say("chat while training", step=view.step, share_of_alone=share, **during)
            time.sleep(0.2)
        seconds = round(view.latest.seconds_per_step, 3) if view.latest else None
        self.say("trained", status=str(view.status), message=view.message, seconds_per_step=seconds)
        self._note_memory(run)
        if view.status is not Status.FINISHED or not view.checkpoints:
            return False
        began = time.perf_counter()
        prefix = services.host.load_prefix(view.checkpoints[-1].path)
        self.say("checkpoint loaded", seconds=round(time.perf_counter() - began, 3))
        self.say("base and tuned", **chat(session, [None, prefix], REPLY_TOKENS))
        return True

    def _note_memory(self, run: Run) -> None:
        """What the trainer's process says that it has taken."""
        event = last_event(run.events()[0], MemoryEvent)
        if event is not None:
            self.measured["run: tensors"] = event.allocated / MIB
            self.measured["run: allocator"] = (event.reserved - event.allocated) / MIB


def _rows(run: MemoryForecast, settings: TrainingSettings) -> int:
    return run.plan.rows or run.plan.merged * settings.per_device_train_batch_size


def _unused_mib() -> float:
    """What torch holds in reserve in this process; a `free_bytes` counts it."""
    return (torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / MIB


def second_process(model: str, bits: int) -> dict[str, Any]:
    """How soon another process has the page's weights, its imports not counted."""
    command = [sys.executable, "-c", SECOND, model, str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def chat(session: ChatSession, prefixes: Sequence[Prefix | None], tokens: int) -> dict[str, float]:
    """Both panes at once: milliseconds to the first token, tokens a second each, the longest pause."""
    sampling = SamplingParams(max_new_tokens=tokens)
    began, times = time.perf_counter(), [[] for _ in prefixes]  # type: tuple[float, list[list[float]]]
    replies = [
        session.stream(QUESTION, prefix=prefix, sampling=sampling, seed=seed) for seed, prefix in enumerate(prefixes)
    ]

    def listen(which: int) -> None:
        for _ in replies[which]:
            times[which].append(time.perf_counter())

    threads = [threading.Thread(target=listen, args=(which,)) for which in range(len(replies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gaps = [later - earlier for seen in times for earlier, later in itertools.pairwise(seen)]
    return {
        "first_token_ms": round(1000 * max(seen[0] - began for seen in times), 1),
        "tokens_per_second_each": round(statistics.mean((len(seen) - 1) / (seen[-1] - seen[0]) for seen in times), 1),
        "longest_pause_ms": round(1000 * max(gaps), 1),
    }


def used_mib() -> int:
    """The card's memory in use, by whoever."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


@contextmanager
def small_card(gib: float) -> Iterator[None]:
    """Leave that much of the card free; 0 leaves all."""
    if not gib:
        yield
        return
    rest = subprocess.Popen([sys.executable, "-c", TAKE_THE_REST, str(gib)], stdout=subprocess.PIPE)
    try:
        assert rest.stdout is not None
        rest.stdout.readline()
        yield
    finally:
        rest.kill()
        rest.communicate()


@contextmanager
def watched(job: Job) -> Iterator[None]:
    """Say at the end how much the whole job took at most."""
    before, peak, ended = used_mib(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(1 / LOOKS_A_SECOND):
            peak[0] = max(peak[0], used_mib())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        job.say("peak", whole_job_mib=peak[0] - before)
        job.compare(peak[0] - before)


def measure_card(options: argparse.Namespace) -> bool:
    """One card, in this process."""
    job = Job(options)
    with small_card(options.card_gib), watched(job):
        return job.run()


def measure_cards(options: argparse.Namespace) -> bool:
    """Each card in a process of its own, with one new folder for compiled kernels."""
    done, started = True, set()
    with tempfile.TemporaryDirectory() as kernels:
        for card in options.cards:
            size, _, bits = card.partition(":")
            start = "next" if bits in started else "first"
            started.add(bits)
            command = [sys.executable, "-m", "benchmarks.one_card", "--model", options.model, "--rows", options.rows]
            command += ["--card-gib", size, "--start", start, *(["--bits", bits] if bits else [])]
            environment = {**os.environ, "TRITON_CACHE_DIR": kernels}
            done &= subprocess.run(command, env=environment, check=False).returncode == 0
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, type=Path, help="training data with columns content and summary")
    parser.add_argument("--cards", nargs="+", default=list(CARDS), help="GiB or GiB:bits of each card; 0: as it is")
    parser.add_argument("--card-gib", type=float, help="one card only, in this process")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="of that card")
    parser.add_argument("--start", default="first", help="whether its kernels are compiled already: first or next")
    options = parser.parse_args()
    done = measure_cards(options) if options.card_gib is None else measure_card(options)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
