"""Many users for half an hour: they chat, stop, reload and drop out while a run trains, and the page stays as it was.

    ./launch.sh bench soak --minutes 30 --users 16

Starts a page with the demo model on this machine and talks to it as browsers do, each user from a loopback address of
its own. Prints JSON lines: the server's memory while it goes on, then answers by status, seconds to the first text, and
how much memory grew after the first five minutes. Exits with 1 if the server failed a request.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving import serve
from training.runs import process
from training.runs.store import Run

QUESTIONS = (
    "你好，介绍一下你自己",
    "3加4等于几？",
    "类型#裙*颜色#白色*风格#简约",
    "What can you do?",
    "写一个 Python 例子",
)
SETTLING_SECONDS = 300  # before memory is held against the server: caches fill, threads start
MEMORY_SECONDS = 10
# What a pane shows before the first text: dots, and in a line its place there.
PENDING, WAITING = "…", 'class="waiting"'


@dataclass
class Record:
    """What all users saw, written from their threads."""

    answers: Counter[str] = field(default_factory=Counter)
    first_text_seconds: list[float] = field(default_factory=list)
    acts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, what: str) -> None:
        with self.lock:
            (self.answers if kind == "answer" else self.acts)[what] += 1


class Page:
    """The page as one browser tab has it: its configuration, a session, and the calls that its script makes."""

    def __init__(self, client: httpx.Client, record: Record) -> None:
        self._client, self._record = client, record
        self._session = uuid.uuid4().hex[:10]
        self._get("/")
        config = self._get("/config").json()
        self._values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self._ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self._events = [event for event in config["dependencies"] if event["backend_fn"]]
        for event in self._on("load"):
            self._call(event)

    def tick(self) -> None:
        """What the page's clock asks for."""
        for event in self._on("tick"):
            self._call(event)

    def ask(self, question: str) -> Iterator[str]:
        """Send a message, and yield what the server says of it, a JSON text at a time."""
        self._values[self._ids["message"]] = question
        send = self._ids["send"]
        pressed = [event for event in self._on("click") if [send, "click"] in event["targets"]]
        for event in pressed:
            if event["queue"] is False:
                self._call(event)
        (event,) = (event for event in pressed if event["queue"] is not False)
        joined = self._post("/gradio_api/queue/join", self._body(event, send))
        if joined.status_code != 200:
            return
        query = {"session_hash": self._session}
        with self._client.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            self._record.count("answer", f"{stream.status_code} queue/data")
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield line[5:]

    def stop(self) -> None:
        """Press Stop."""
        stop = self._ids["stop"]
        (event,) = (event for event in self._on("click") if [stop, "click"] in event["targets"])
        self._call(event)

    def _on(self, what: str) -> list[dict[str, Any]]:
        return [event for event in self._events if any(target[1] == what for target in event["targets"])]

    def _body(self, event: dict[str, Any], trigger: int | None = None) -> dict[str, Any]:
        data = [self._values.get(part) for part in event["inputs"]]
        return {"data": data, "fn_index": event["id"], "session_hash": self._session, "trigger_id": trigger}

    def _call(self, event: dict[str, Any]) -> None:
        self._post("/gradio_api/run/predict", self._body(event))

    def _get(self, path: str) -> httpx.Response:
        return self._counted(path, self._client.get(path))

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._counted(path, self._client.post(path, json=body))

    def _counted(self, path: str, answer: httpx.Response) -> httpx.Response:
        self._record.count("answer", f"{answer.status_code} {path.removeprefix('/gradio_api/')}")
        return answer


def visit(url: str, address: str, record: Record, until: float, seed: int) -> None:
    """One user until the time is up: some questions a page, some answers stopped or walked away from, then a reload."""
    chance = random.Random(seed)
    transport = httpx.HTTPTransport(local_address=address)
    while time.monotonic() < until:
        try:
            with httpx.Client(base_url=url, transport=transport, timeout=60) as client:
                _use_page(Page(client, record), chance, record, until)
        except httpx.HTTPError as error:
            record.count("answer", type(error).__name__)
        transport = httpx.HTTPTransport(local_address=address)
        record.count("act", "reload")


def _use_page(page: Page, chance: random.Random, record: Record, until: float) -> None:
    for _ in range(chance.randint(1, 5)):
        for _ in range(chance.randint(1, 4)):  # reads, a second at a time
            page.tick()
            time.sleep(1)
        if time.monotonic() > until or not _ask(page, chance, record):
            return


def _ask(page: Page, chance: random.Random, record: Record) -> bool:
    """Ask something; False if the user walked away from the answer."""
    act = chance.choices(("read", "stop", "drop"), (8, 1, 1))[0]
    record.count("act", act)
    started, first = time.monotonic(), None
    for message in page.ask(chance.choice(QUESTIONS)):
        if first is None and _has_text(message):
            first = time.monotonic() - started
            with record.lock:
                record.first_text_seconds.append(first)
            if act == "drop":
                return False
            if act == "stop":
                page.stop()
        if '"process_completed"' in message:
            break
    return True


def _has_text(message: str) -> bool:
    """Whether a message of the queue brings a part of an answer: a change of a pane's text to more than dots."""
    for change in _changes(json.loads(message).get("output", {}).get("data") or []):
        kind, path, value = change
        if (
            kind in ("replace", "append")
            and path[-1:] == ["text"]
            and value not in ("", PENDING)
            and WAITING not in str(value)
        ):
            return True
    return False


def _changes(outputs: list[Any]) -> Iterator[tuple[str, list[Any], Any]]:
    for output in outputs:
        for change in output if isinstance(output, list) else ():
            if isinstance(change, list) and len(change) == 3 and isinstance(change[1], list):
                yield change[0], change[1], change[2]


def train_beside(output: Path) -> Run:
    """A run that outlasts the soak, in a process of its own, which ends when it is asked to."""
    words = ["--max_steps", "1000000", "--save_steps", "100", "--save_total_limit", "2", "--detach"]
    run = Run(output / "soak")
    command = [sys.executable, "-m", "training.main", "--output_dir", str(run.path), "--device", "cpu", *words]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--without-training", action="store_true")
    options = parser.parse_args()
    output = Path(tempfile.mkdtemp(prefix="soak-"))
    server, url = serve(output)
    trainer = None if options.without_training else train_beside(output)
    record, started = Record(), time.monotonic()
    until = started + 60 * options.minutes
    users = [
        threading.Thread(target=visit, args=(url, f"127.0.0.{2 + index}", record, until, index))
        for index in range(options.users)
    ]
    for user in users:
        user.start()
    memory: list[tuple[float, float]] = []  # (seconds, MiB)
    try:
        while time.monotonic() < until and server.poll() is None:
            memory.append((time.monotonic() - started, psutil.Process(server.pid).memory_info().rss / 2**20))
            print(json.dumps({"seconds": round(memory[-1][0]), "rss_mib": round(memory[-1][1])}), flush=True)
            time.sleep(MEMORY_SECONDS)
        for user in users:
            user.join(120)
    finally:
        if trainer is not None:
            process.request_stop(trainer)
        server.terminate()
    return _report(record, memory, server.wait(60))


def _means(memory: list[tuple[float, float]]) -> list[float]:
    """The mean of each five minutes: one peak says little about what stays."""
    spans: dict[int, list[float]] = {}
    for seconds, mib in memory:
        spans.setdefault(int(seconds // SETTLING_SECONDS), []).append(mib)
    return [round(statistics.mean(values), 1) for values in spans.values()]


def _report(record: Record, memory: list[tuple[float, float]], exit_code: int) -> int:
    settled = [mib for seconds, mib in memory if seconds >= SETTLING_SECONDS]
    texts = record.first_text_seconds
    failed = {answer: count for answer, count in record.answers.items() if not answer.startswith(("2", "429"))}
    facts = {
        "answers": dict(record.answers),
        "acts": dict(record.acts),
        "first_text_median_seconds": round(statistics.median(texts), 2) if texts else None,
        "first_text_worst_seconds": round(max(texts), 2) if texts else None,
        "texts": len(texts),
        "rss_mib_each_5_minutes": _means(memory),
        "rss_growth_mib_after_5_minutes": round(max(settled) - settled[0]) if settled else None,
        "failed": failed,
        "server_exit_code": exit_code,
    }
    print(json.dumps(facts, ensure_ascii=False), flush=True)
    return 1 if failed or not texts else 0


if __name__ == "__main__":
    sys.exit(main())
