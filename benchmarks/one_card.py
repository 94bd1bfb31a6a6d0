"""One graphics card, the whole job: serve, chat, click to train, chat on, load the checkpoint, compare.

    python -m benchmarks.one_card --model DIR --rows ROWS.json --card-gib 8 --bits 4

Prints a JSON line a fact, and exits with 0 where all of it worked. ``--card-gib`` makes the card that small: another
process takes the rest first, and its own context is left out of the count. Drives what the page drives
(`app.services`), so that what fails here fails on a click. The model is a checkpoint, or one of random weights by
`benchmarks.make_checkpoint`.
"""

from __future__ import annotations

import argparse
import itertools
import json
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

from app.chat.model_host import ModelOptions
from app.services import Services, build_services
from app.training.service import DataChoice
from chatglm2 import ChatSession, Prefix, SamplingParams
from training.runs.store import Status

QUESTION = "类型#上衣*材质#牛仔布*颜色#白色*风格#简约"
TRAINING = {"preset": "adgen", "max_steps": 60, "logging_steps": 20}
LOOKS_A_SECOND = 20
# Run by another process, which holds the rest of the card until it is killed.
TAKE_THE_REST = """
import sys, time, torch
torch.zeros(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
taken = [torch.empty(int((free - float(sys.argv[1]) * 2**30) // 4), dtype=torch.uint8, device="cuda") for _ in range(4)]
print("taken", flush=True)
time.sleep(100000)
"""


class Job:
    """A card of some size, and what is said of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._facts = {"benchmark": "one card", "card_gib": options.card_gib, "quantization_bit": options.bits or 0}

    def say(self, event: str, **facts: Any) -> None:
        print(json.dumps({**self._facts, "event": event, **facts}, ensure_ascii=False), flush=True)

    def run(self) -> bool:
        """The whole job; False where a part of it failed."""
        options = self.options
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
        session.engine.model.config.eos_token_id = None  # replies of random weights must not end early
        chat(session, [None, None], 20)
        alone = chat(session, [None, None], 150)
        self.say("chat alone", **alone)
        try:
            return self._train(services, session, alone["tokens_per_second_each"])
        finally:
            services.training.close()
            services.host.close()

    def _train(self, services: Services, session: ChatSession, alone: float) -> bool:
        clicked = time.perf_counter()
        run = services.training.start(DataChoice(str(self.options.rows.resolve())), TRAINING, None)
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
        if view.status is not Status.FINISHED or not view.checkpoints:
            return False
        began = time.perf_counter()
        prefix = services.host.load_prefix(view.checkpoints[-1].path)
        self.say("checkpoint loaded", seconds=round(time.perf_counter() - began, 3))
        self.say("base and tuned", **chat(session, [None, prefix], 150))
        return True


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, type=Path, help="training data with columns content and summary")
    parser.add_argument("--card-gib", type=float, default=0.0, help="how large the card is; 0: as it is")
    parser.add_argument("--bits", type=int, choices=(4, 8))
    job = Job(parser.parse_args())
    with small_card(job.options.card_gib), watched(job):
        done = job.run()
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
