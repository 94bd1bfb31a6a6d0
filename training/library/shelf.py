"""The shelf: the prefixes of a directory of runs, those that came from elsewhere among them, each with its card.

    output/library/NAME/     a prefix from a hub or a zip, with ``source.json``, which says where it came from

Knows how a prefix comes to its place, checked and whole, and how one is found by words and tags.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from chatglm2.errors import RunError
from training.library.bundle import check_bundle
from training.library.card import CARD_FILE
from training.library.entry import ORIGIN_FILE, Entry, Origin, describe, folded
from training.runs.checkpoints import CheckpointInfo, checkpoint_kind, find_checkpoints, read_checkpoint
from training.runs.storage import (
    explaining_storage_errors,
    hidden_name,
    publish_directory,
    read_json,
    write_atomically,
)
from training.runs.store import RunStore

LIBRARY = "library"
LOCK_FILE, LOCK_SECONDS = ".lock", 30.0
LONGEST_NAME = 80
ABANDONED_SECONDS = 86_400.0


class Shelf:
    """The prefixes below a directory of runs."""

    def __init__(self, output: Path) -> None:
        self.root = output.resolve() / LIBRARY
        self._runs = RunStore(output.resolve())

    def entries(self) -> list[Entry]:
        """All of them, the newest first."""
        trained = [describe(info) for run in self._runs.list() for info in run.checkpoints() if info.is_prefix]
        found = [*trained, *(describe(info, origin) for info, origin in self.taken())]
        return sorted(found, key=lambda entry: (-entry.info.created_at, -entry.info.step))

    def taken(self) -> list[tuple[CheckpointInfo, Origin]]:
        """What came from elsewhere."""
        found = []
        for file in sorted(self.root.glob(f"*/{ORIGIN_FILE}")):
            place = file.parent
            with suppress(OSError, ValueError, ValidationError):
                origin = Origin.model_validate(read_json(file))
                if not place.name.startswith(".") and checkpoint_kind(place) == "prefix":
                    found.append((read_checkpoint(place), origin))
        return found

    def find(self, text: str) -> Entry:
        """The prefix that somebody named: by a path, by its card's name, by its run, or as ``RUN/checkpoint-N``.

        Of a run its last checkpoint is meant.

        Raises:
            RunError: there is none, or several have that name.
        """
        place = Path(text).expanduser()
        if place.exists():
            info = find_checkpoints(place.resolve())[-1]
            return describe(info, self._origin_of(info.path))
        wanted = folded(text)
        entries = self.entries()
        found = [entry for entry in entries if wanted in (folded(entry.name), folded(entry.place.replace(" ", "")))]
        if not found:
            of_run = [entry for entry in entries if folded(_directory(entry)) == wanted]
            found = sorted(of_run, key=lambda entry: entry.info.step)[-1:]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(str(entry.info.path) for entry in found)
            raise RunError(
                f"{len(found)} prefixes are called {text!r}: {listed}. Name one by its path.",
                f"有 {len(found)} 个前缀叫做“{text}”：{listed}。请用路径指定其中一个。",
            )
        named = ", ".join(entry.name for entry in entries[:5]) or "—"
        raise RunError(
            f"There is no prefix {text!r}: expected a path or a name. The latest: {named}.",
            f"没有前缀“{text}”：应为路径或名称。最近的有：{named}。",
        )

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A directory out of sight for what is on its way here; gone afterwards, unless it was put in its place."""
        with explaining_storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self._forget_abandoned()
            staged = hidden_name(self.root / name, "partial")
            staged.mkdir()
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def put(self, staged: Path, name: str, origin: Origin, *, replace: bool) -> Path:
        """Check what lies in ``staged`` and move it to its place.

        Args:
            staged: what `staging` gave, with a prefix's files in it.
            name: what the place is called.
            origin: where it came from.
            replace: take the place of what has that name already, but for a card that was changed here; else another
                name is found.

        Raises:
            PrefixError: `check_bundle` refuses it.
            RunError: it cannot be written.
        """
        check_bundle(staged)
        digest = _sha256(staged / CARD_FILE)
        with explaining_storage_errors(self.root), self._lock():
            target = self.root / (name if replace else _free_name(self.root, name))
            if target.is_dir() and self._was_edited(target):
                shutil.copyfile(target / CARD_FILE, staged / CARD_FILE)
            noted = origin.model_copy(update={"taken_at": datetime.now().astimezone(), "card_sha256": digest})
            write_atomically(staged / ORIGIN_FILE, noted.model_dump_json(indent=1) + "\n")
            publish_directory(staged, target)
        return target

    def _was_edited(self, place: Path) -> bool:
        """Whether the card was changed since it came here."""
        origin = self._origin_of(place)
        return origin is not None and (place / CARD_FILE).is_file() and _sha256(place / CARD_FILE) != origin.card_sha256

    def _origin_of(self, place: Path) -> Origin | None:
        with suppress(OSError, ValueError, ValidationError):
            return Origin.model_validate(read_json(place / ORIGIN_FILE))
        return None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self.root / LOCK_FILE, timeout=LOCK_SECONDS):
                yield
        except Timeout as error:
            raise RunError(
                f"Another prefix is being put into {self.root}. Try again in a minute.",
                f"正在向 {self.root} 写入另一个前缀，请一分钟后再试。",
            ) from error

    def _forget_abandoned(self) -> None:
        """Remove what a process that was killed has left half done."""
        for item in self.root.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - item.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(item, ignore_errors=True)


def _directory(entry: Entry) -> str:
    """What its run's directory is called, or its own on the shelf."""
    return entry.info.path.parent.name if entry.origin is None else entry.info.path.name


def place_name(text: str) -> str:
    """A directory's name made of what something is called elsewhere."""
    name = re.sub(r"[^\w.-]+", "-", text.replace("/", "--")).strip("-._")
    return name[:LONGEST_NAME].rstrip("-._") or "prefix"


def _free_name(root: Path, name: str) -> str:
    number = 2
    free = name
    while (root / free).exists():
        free, number = f"{name}-{number}", number + 1
    return free


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
