"""What a pane can answer with: the base model, or a prefix checkpoint on top of it.

Knows the runs on disk and how to load a prefix once. Knows no Gradio; one instance serves every user.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm2.errors import PrefixError
from training.runs import CheckpointInfo, RunStore

if TYPE_CHECKING:
    from chatglm2.prefix import Prefix

BASE = "base"
LOADED_LIMIT = 16
NAMED_FILE = "named-checkpoints.json"


@dataclass(frozen=True)
class Source:
    """One entry of the panes' menu."""

    key: str  # BASE, or the checkpoint's path
    info: CheckpointInfo | None = None  # None for the base and for a path that belongs to no run

    @property
    def is_base(self) -> bool:
        return self.key == BASE

    @property
    def name(self) -> str:
        """What to call it where there is no room for a chip: run and step, or the end of the path."""
        if self.info is not None:
            return f"{self.info.run_name} · {self.info.step}"
        return "/".join(Path(self.key).parts[-2:])


@dataclass(frozen=True)
class LoadedSource:
    """A source that is ready to answer: for a checkpoint its prefix, and what the probe saw."""

    source: Source
    prefix: Prefix | None = None
    max_logit_change: float = 0.0
    has_effect: bool = True

    def chip(self, base_name: str, prefix_word: str, step_word: str) -> str:
        """Who answers, in one line: base, or run, step, prefix length and short hash."""
        if self.prefix is None:
            return base_name
        info = self.source.info
        who = f"{info.run_name} · {step_word} {info.step}" if info else self.source.name
        return f"{who} · {prefix_word} {self.prefix.length} · {self.prefix.short_hash}"


@dataclass(frozen=True)
class PrefixLoader:
    """How the library gets from a path to a prefix and to the probe's verdict; the model's side of the seam."""

    load: Callable[[Path], Prefix]
    probe: Callable[[Prefix], Any]


class SourceLibrary:
    """Every source there is, newest first, and the prefixes that were loaded lately."""

    def __init__(self, runs: RunStore, loader: PrefixLoader, root: Path) -> None:
        self._runs = runs
        self._loader = loader
        self._named_file = root / NAMED_FILE
        self._loaded: OrderedDict[tuple[str, int, int], LoadedSource] = OrderedDict()
        self._lock = threading.Lock()

    def sources(self) -> list[Source]:
        """The base, then the checkpoints of all runs, newest first, then the paths that users named."""
        checkpoints = [info for run in self._runs.list() for info in run.checkpoints()]
        checkpoints.sort(key=lambda info: info.created_at, reverse=True)
        of_runs = [Source(str(info.path), info) for info in checkpoints]
        named = [Source(path) for path in self._named_paths() if Path(path).exists()]
        return [Source(BASE), *of_runs, *named]

    def newest(self) -> Source | None:
        """The checkpoint that appeared last, if there is one."""
        return next((source for source in self.sources() if source.info is not None), None)

    def find(self, key: str) -> Source:
        for source in self.sources():
            if source.key == key:
                return source
        raise PrefixError(
            f"The checkpoint {key} is gone: it was deleted or moved. Choose another one.",
            f"找不到检查点 {key}，它可能已被删除或移走。请换一个。",
        )

    def load(self, key: str) -> LoadedSource:
        """Makes a source ready. A checkpoint is read once; a file that changed since is read again."""
        source = self.find(key)
        if source.is_base:
            return LoadedSource(source)
        stamp = (key, *_newest_change(Path(key)))
        with self._lock:
            if stamp not in self._loaded:
                prefix = self._loader.load(Path(key))
                probe = self._loader.probe(prefix)
                self._loaded[stamp] = LoadedSource(source, prefix, probe.max_logit_change, probe.has_effect)
                while len(self._loaded) > LOADED_LIMIT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(stamp)
            return self._loaded[stamp]

    def name_path(self, text: str) -> Source:
        """Adds a checkpoint that lies elsewhere on this machine, after reading it once to see that it fits."""
        path = Path(text.strip()).expanduser()
        if not text.strip() or not path.exists():
            raise PrefixError(
                f"There is no checkpoint at {text!r}. Give a checkpoint directory or a prefix file on the machine that serves this page.",
                f"在 {text!r} 没有找到检查点。请填写运行本页面的机器上的检查点目录或前缀文件路径。",
            )
        path = path.resolve()
        known = next((source for source in self.sources() if source.key == str(path)), None)
        if known is not None:
            return known
        self._loader.load(path)
        self._save_named([*self._named_paths(), str(path)])
        return Source(str(path))

    def forget_path(self, key: str) -> None:
        """Takes a named path off the list; the files stay."""
        self._save_named([path for path in self._named_paths() if path != key])

    def delete(self, key: str) -> None:
        """Deletes a run's checkpoint from disk; of a named path only the name, for those files are not ours."""
        source = self.find(key)
        if source.info is None:
            self.forget_path(key)
        else:
            self._runs.get(source.info.run_name).delete_checkpoint(source.info.step)

    def _named_paths(self) -> list[str]:
        try:
            return [str(path) for path in json.loads(self._named_file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def _save_named(self, paths: list[str]) -> None:
        self._named_file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._named_file.with_suffix(".tmp")
        draft.write_text(json.dumps(paths, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(draft, self._named_file)


def _newest_change(path: Path) -> tuple[int, int]:
    """(time, size) of the newest file at ``path``, which change whenever a checkpoint is replaced."""
    files = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
    stats = [entry.stat() for entry in files]
    return max((stat.st_mtime_ns for stat in stats), default=0), sum(stat.st_size for stat in stats)
