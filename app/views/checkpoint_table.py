"""Every checkpoint with what can be done to it; buttons carry ``data-action`` and ``data-key`` for the page.

Pure: sources in, escaped HTML out. Knows under which names downloads are asked for, not how they are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from app.chat.conversation import PANES
from app.chat.sources import Broken, Source
from app.text.languages import Speech
from app.views.markup import format_bytes, format_time, render
from training.runs.checkpoints import CheckpointInfo

DOWNLOAD_PATH = "download-checkpoint"
DOWNLOAD_FRAME = "download-answer"  # where the page learns why a download failed
ORIGINAL_FORMAT = "original"  # what a link asks for that wants the original's file instead of ours
COLUMNS = ("run", "step", "loss", "prefix", "settings", "size", "created", "actions")
# Settings that tell runs apart, by the short names that people who train use.
SUMMARY = (("learning_rate", "lr"), ("per_device_train_batch_size", "batch"))


@dataclass(frozen=True)
class Wanted:
    """What a reader looks for: words that all occur, and tags that all are there."""

    words: str = ""
    tags: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        return not self.words.strip() and not self.tags

    def takes(self, source: Source) -> bool:
        return self.is_everything or (source.entry is not None and source.entry.matches(self.words, self.tags))


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Action:
    """A button: what it does, what it says, and whether that is so already (None: that cannot be)."""

    name: str
    title: str
    pressed: bool | None = None


@dataclass(frozen=True)
class DownloadLink:
    target: str
    title: str
    help: str


@dataclass(frozen=True)
class Row:
    """A checkpoint's line: its values in the order of `COLUMNS`, and what can be done."""

    key: str
    name: str
    path: Path
    values: tuple[str, ...]
    title: str
    tags: tuple[str, ...]
    problem: str
    panes: tuple[Action, ...]
    card: Action
    downloads: tuple[DownloadLink, ...]
    delete: Action


@dataclass(frozen=True)
class BrokenRow:
    """What cannot be used: which, why, and the button that removes it."""

    key: str
    name: str
    reason: str
    delete: Action


def checkpoint_table(
    sources: Sequence[Source],
    selected: Mapping[str, str],
    speech: Speech,
    broken: Sequence[Broken] = (),
    *,
    may_change: bool = True,
    wanted: Wanted = EVERYTHING,
) -> Markup:
    """The table of all checkpoints among ``sources``, or a sentence where there is none.

    Args:
        sources: the panes' choices, the base among them.
        selected: pane name → key of the source it answers with now.
        speech: the reader's.
        broken: what is there and cannot be used, named below the table.
        may_change: whether the reader may download and delete.
        wanted: what the reader looks for.
    """
    shown = [(source, source.info) for source in sources if source.info is not None and wanted.takes(source)]
    rows = [_row(source, info, selected, speech) for source, info in shown]
    titles = [speech(f"column_{column}") for column in COLUMNS]
    unusable = [
        BrokenRow(
            item.key, item.name, item.reason.localized(speech.language), Action("delete", speech("action_remove"))
        )
        for item in broken
    ]
    return render(
        "checkpoints",
        rows=rows,
        titles=titles,
        frame=DOWNLOAD_FRAME,
        empty=speech("no_checkpoints" if wanted.is_everything else "nothing_found"),
        closed="" if may_change else speech("not_for_viewers"),
        broken=unusable,
        broken_title=speech("broken_title", count=len(unusable)),
    )


def _row(source: Source, info: CheckpointInfo, selected: Mapping[str, str], speech: Speech) -> Row:
    return Row(
        key=source.key,
        name=source.name,
        path=info.path,
        values=_values(info, speech),
        title=source.title,
        tags=source.entry.tags if source.entry is not None else (),
        problem=_problem(source, speech),
        panes=tuple(Action(pane, speech(f"action_{pane}"), selected.get(pane) == source.key) for pane in PANES),
        card=Action("card", speech("action_card")),
        downloads=_downloads(source.key, info, speech),
        delete=Action("delete", speech("action_delete")),
    )


def _problem(source: Source, speech: Speech) -> str:
    """That its card cannot be read; why, its card's panel says."""
    return speech("card_broken") if source.entry is not None and source.entry.problem is not None else ""


def _values(info: CheckpointInfo, speech: Speech) -> tuple[str, ...]:
    projection = f" · {speech('with_projection')}" if info.prefix_projection else ""
    return (
        info.run_name,
        f"{info.step} · {speech('best')}" if info.is_best else str(info.step),
        _loss(info, speech),
        "—" if info.pre_seq_len is None else f"{info.pre_seq_len}{projection}",
        _settings_summary(info.settings),
        format_bytes(info.size_bytes),
        format_time(info.created_at),
    )


def _loss(info: CheckpointInfo, speech: Speech) -> str:
    """Of rows held back, if those were measured; a single batch's says little."""
    if info.validation_loss is not None:
        return speech("loss_validated", loss=f"{info.validation_loss:.4f}")
    return "—" if info.loss is None else speech("loss_of_batch", loss=f"{info.loss:.4f}")


def _settings_summary(settings: Mapping[str, Any]) -> str:
    """What a checkpoint was trained with, in the flags' own words; nothing where its files do not say."""
    numbers = ((short, settings.get(name)) for name, short in SUMMARY)
    parts = [f"{short} {value:g}" for short, value in numbers if isinstance(value, int | float) and abs(value) < 1e18]
    if settings.get("train_file"):
        parts.append(Path(str(settings["train_file"])).name)
    return " · ".join(parts) or "—"


def _downloads(key: str, info: CheckpointInfo, speech: Speech) -> tuple[DownloadLink, ...]:
    """The checkpoint's own files, and beside them the original's format, which a complete model does not have."""

    def link(action: str, **asked: str) -> DownloadLink:
        target = f"{DOWNLOAD_PATH}?{urlencode({'key': key, **asked})}"
        return DownloadLink(target, speech(f"action_{action}"), speech(f"action_{action}_help"))

    ours = link("download")
    return (ours, link("original", format=ORIGINAL_FORMAT)) if info.is_prefix else (ours,)
