"""What a pane can answer with: the base model, or a prefix checkpoint on top of it.

Knows the runs on disk and how to load a prefix once. Knows no Gradio; one instance serves every user.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.places import Places
from app.text.languages import Speech
from chatglm2.errors import ChatGLMError, PrefixError, RunError
from training.library.base import note_on_base
from training.library.entry import Descriptions, Entry, Origin
from training.library.shelf import Shelf
from training.runs.checkpoints import (
    CheckpointInfo,
    find_checkpoints,
    note_on_angles,
    require_prefix_length,
)
from training.runs.storage import changing, explaining_storage_errors, read_json, remove_directory, write_atomically
from training.runs.store import RunStore

if TYPE_CHECKING:
    from chatglm2.model.prefix import Prefix

BASE = "base"
LOADED_LIMIT = 16
NAMED_FILE = "named-checkpoints.json"
# Every open page asks once a second; the disk is asked once a second for all of them.
LISTING_SECONDS = 0.8


@dataclass(frozen=True)
class Source:
    """One entry of the panes' menu."""

    key: str  # BASE, or the checkpoint's path
    info: CheckpointInfo | None = None  # None for the base
    of_run: bool = False  # was trained here
    entry: Entry | None = None  # with its card; None for the base
    title: str = ""  # what its card calls it, told apart from others that are called so

    @property
    def is_base(self) -> bool:
        return self.key == BASE

    @property
    def is_ours(self) -> bool:
        """Whether its files are ours to delete, which those at a path that a user named are not."""
        return self.of_run or (self.entry is not None and self.entry.origin is not None)

    @property
    def name(self) -> str:
        """What to call it where there is no room for a chip."""
        return self.title or (f"{self.info.run_name} / {self.info.path.name}" if self.info else self.key)


@dataclass(frozen=True)
class Broken:
    """What lies where checkpoints come from and cannot be used: a run's directory, or a path that was named."""

    key: str  # its path
    name: str
    reason: ChatGLMError
    of_run: bool  # its files are ours to delete


@dataclass(frozen=True)
class _Listing:
    read_at: float
    sources: list[Source]
    broken: list[Broken]


NOTHING_READ = _Listing(float("-inf"), [], [])


@dataclass(frozen=True)
class LoadedSource:
    """A source that is ready to answer: for a checkpoint its prefix, and what the probe saw."""

    source: Source
    prefix: Prefix | None = None
    max_logit_change: float = 0.0
    has_effect: bool = True
    note: tuple[str, str] | None = None  # what is to be known of it here, in English and Chinese


@dataclass(frozen=True)
class Shown:
    """The checkpoint that the page was started with, and how long its prefix was said to be."""

    path: Path
    pre_seq_len: int | None = None

    @property
    def key(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class PrefixLoader:
    """How the library gets from a path to a prefix and to the probe's verdict; the model's side of the seam."""

    load: Callable[[Path], Prefix]
    probe: Callable[[Prefix], Any]
    angles: Callable[[], str]  # the model's ``rotary_angles``
    weights: Callable[[], str] = lambda: ""  # their fingerprint, "" where it is not known


class SourceLibrary:
    """Every source there is, newest first, and the prefixes that were loaded lately."""

    def __init__(
        self, runs: RunStore, loader: PrefixLoader, root: Path, places: Places, shown: Shown | None = None
    ) -> None:
        self._runs = runs
        self._shown = shown
        self._places = places
        self._loader = loader
        self._named_file = root / NAMED_FILE
        self._shelf = Shelf(root)
        self._cards = Descriptions()
        self._loaded: OrderedDict[tuple[str, int, int], LoadedSource] = OrderedDict()
        self._lock = threading.Lock()
        self._listing = NOTHING_READ

    def sources(self) -> list[Source]:
        """The base, then all checkpoints, of runs and of named paths, newest first."""
        return self._current().sources

    def broken(self) -> list[Broken]:
        """What is there and cannot be used, with the reason."""
        return self._current().broken

    def _current(self) -> _Listing:
        if time.monotonic() - self._listing.read_at > LISTING_SECONDS:
            self._listing = self._read_listing()
        return self._listing

    @property
    def shown(self) -> str:
        """The key of the checkpoint that the page was started with; "" where it was started with none."""
        return self._shown.key if self._shown is not None else ""

    def first(self, model: str) -> Source | None:
        """What a visitor who has chosen nothing compares the base with; None where there is nothing yet."""
        started_with = next((source for source in self.sources() if source.key == self.shown), None)
        return started_with or self.newest(model)

    def newest(self, model: str) -> Source | None:
        """The checkpoint that was trained here last, of those on ``model`` or that do not say on what."""
        fitting = (source for source in self.sources() if source.of_run)
        return next((source for source in fitting if source.info and _trained_on(source.info, model)), None)

    def find(self, key: str) -> Source:
        """The source with ``key``.

        Raises:
            PrefixError: there is none any more.
        """
        found = next((source for source in self.sources() if source.key == key), None)
        if found is None:
            self.look_again()
            found = next((source for source in self.sources() if source.key == key), None)
        if found is None:
            raise PrefixError(
                f"The checkpoint {key} is gone: it was deleted or moved. Choose another one.",
                f"找不到检查点 {key}，它可能已被删除或移走。请换一个。",
            )
        return found

    def load(self, key: str) -> LoadedSource:
        """Makes a source ready. A checkpoint is read once; one that changed since is read again.

        Raises:
            ChatGLMError: it is gone, broken, or does not fit the model.
        """
        source = self.find(key)
        if source.is_base:
            return LoadedSource(source)
        stamp = (key, *_last_change(Path(key)))
        with self._lock:
            if stamp not in self._loaded:
                prefix = self._loader.load(Path(key))
                if self._shown is not None and key == self._shown.key:
                    require_prefix_length(self._shown.pre_seq_len, prefix.length)
                probe = self._loader.probe(prefix)
                self._loaded[stamp] = LoadedSource(
                    source, prefix, probe.max_logit_change, probe.has_effect, self._note(source)
                )
                while len(self._loaded) > LOADED_LIMIT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(stamp)
            return replace(self._loaded[stamp], source=source)

    def _note(self, source: Source) -> tuple[str, str] | None:
        """What is to be known of a checkpoint that was trained otherwise than it is used here."""
        notes = [note_on_angles(source.info, self._loader.angles())] if source.info is not None else []
        if source.entry is not None and source.entry.card is not None:
            notes.append(note_on_base(source.entry.card.facts, self._loader.weights()))
        known = [note for note in notes if note is not None]
        return (" ".join(en for en, _ in known), "".join(zh for _, zh in known)) if known else None

    def name_path(self, text: str) -> list[Source]:
        """Adds the checkpoints at a path on this machine, after reading each once to see that it fits.

        Raises:
            ChatGLMError: there is none, or one does not fit.
        """
        if not text.strip():
            raise PrefixError("Type a path first.", "请先填写路径。")
        added = [Source(str(info.path.resolve()), info) for info in find_checkpoints(self._places.checkpoint(text))]
        for source in added:
            self._loader.load(Path(source.key))
        with self._changing_named() as known:
            known += [source.key for source in added if source.key not in known]
        return added

    def delete(self, key: str) -> None:
        """Deletes a run's checkpoint, or a broken run, from disk; of a named path only the name.

        Raises:
            RunError: the page was started with it, and it is no run's.
        """
        broken = self.find_broken(key)
        if broken is not None and broken.of_run:
            with explaining_storage_errors(Path(key)):
                remove_directory(Path(key))
            self.look_again()
            return
        if broken is not None:
            self._forget_named(key)
            return
        source = self.find(key)
        if key == self.shown and not source.of_run:
            raise RunError(
                "The page was started with this checkpoint and goes on showing it. Start it without "
                "--ptuning_checkpoint to take it from the list.",
                "网页启动时指定了这个检查点，因此会一直显示。要从列表中移除，请去掉 --ptuning_checkpoint 重新启动。",
            )
        place = Path(key)
        if source.of_run and source.info is not None:
            self._runs.get(place.parent.name).delete_checkpoint(int(place.name.rpartition("-")[2]))
        elif source.is_ours:
            with explaining_storage_errors(place):
                remove_directory(place)
        else:
            self._forget_named(key)
        self.look_again()

    def find_broken(self, key: str) -> Broken | None:
        """What is broken at ``key``; None where nothing is."""
        return next((item for item in self.broken() if item.key == key), None)

    def _read_listing(self) -> _Listing:
        found = {
            str(info.path): Source(str(info.path), info, of_run=True)
            for run in self._runs.list()
            for info in run.checkpoints()
            if info.is_prefix  # a complete model is no prefix of the one that is served
        }
        taken = self._shelf.taken()
        origins = {str(info.path): origin for info, origin in taken}
        found |= {str(info.path): Source(str(info.path), info) for info, _ in taken}
        broken = [Broken(str(run.path), run.name, error, of_run=True) for run, error in self._runs.broken()]
        started_with = [self._shown.key] if self._shown is not None else []
        for path in (*started_with, *self._named_paths()):
            try:  # whoever starts the page may show what lies anywhere
                place = Path(path) if path == self.shown else self._places.checkpoint(path)
                info = find_checkpoints(place)[0]
            except ChatGLMError as error:  # moved or unmounted: it can be used again when it is back
                broken.append(Broken(path, path, error, of_run=False))
                continue
            found.setdefault(path, Source(path, info))
        described = [self._describe(source, origins.get(source.key)) for source in found.values()]
        checkpoints = sorted(_told_apart(described), key=_age)
        return _Listing(time.monotonic(), [Source(BASE), *checkpoints], broken)

    def _describe(self, source: Source, origin: Origin | None) -> Source:
        return replace(source, entry=self._cards.describe(source.info, origin)) if source.info is not None else source

    def look_again(self) -> None:
        """Something has changed: the next listing reads the disk."""
        self._listing = NOTHING_READ

    def _named_paths(self) -> list[str]:
        """As somebody may have edited them: what is no text is left out."""
        try:
            content = read_json(self._named_file)
        except (OSError, ValueError):
            return []
        return [path for path in content if isinstance(path, str)] if isinstance(content, list) else []

    def _forget_named(self, key: str) -> None:
        with self._changing_named() as known:
            known[:] = [path for path in known if path != key]

    @contextlib.contextmanager
    def _changing_named(self) -> Iterator[list[str]]:
        """The list, which is kept as it is left; pages that share a folder change it one after the other."""
        with explaining_storage_errors(self._named_file):
            self._named_file.parent.mkdir(parents=True, exist_ok=True)
            with changing(self._named_file):
                paths = self._named_paths()
                yield paths
                write_atomically(self._named_file, json.dumps(paths, ensure_ascii=False, indent=1) + "\n")
        self.look_again()


def who_answers(loaded: LoadedSource, model_name: str, speech: Speech) -> str:
    """Who answers, in one line: the base model's name, or run, step, prefix length and short hash."""
    info = loaded.source.info
    if loaded.prefix is None or info is None:
        return speech("chip_base", name=model_name)
    step = speech("chip_step", step=info.step)
    prefix = speech("chip_prefix", length=loaded.prefix.length)
    return f"{loaded.source.title or info.run_name} · {step} · {prefix} · {loaded.prefix.short_hash}"


def _told_apart(sources: list[Source]) -> list[Source]:
    """Sources with their cards' names; where several are called alike, with what tells them apart."""
    names = Counter(source.entry.card.name for source in sources if source.entry is not None and source.entry.card)
    titled = []
    for source in sources:
        name = source.entry.card.name if source.entry is not None and source.entry.card else ""
        alone = names[name] == 1 or source.entry is None
        titled.append(replace(source, title=name if alone or not name else f"{name} · {source.name}"))
    return titled


def _age(source: Source) -> tuple[float, int]:
    info = source.info
    return (-info.created_at, -info.step) if info else (0.0, 0)


def _trained_on(info: CheckpointInfo, model: str) -> bool:
    if not info.base_model or info.base_model == model:
        return True
    try:
        return Path(info.base_model).resolve() == Path(model).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have
        return False


def _last_change(path: Path) -> tuple[int, int]:
    """(time, size) of what lies at ``path``; changes whenever a checkpoint is replaced."""
    files = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
    stats = [entry.stat() for entry in files]
    return max((stat.st_mtime_ns for stat in stats), default=0), sum(stat.st_size for stat in stats)
