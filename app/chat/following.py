"""Panes that follow the training: each new checkpoint of it answers there as soon as it is saved.

What a browser's panes have is one plain dictionary, pane to source; beside it stands which of them follow. Knows no
Gradio.
"""

from __future__ import annotations

from app.chat.conversation import PANES
from app.chat.sources import BASE, Source, SourceLibrary

NEWEST = "newest of the training"  # in a pane's menu; no checkpoint's path
Chosen = dict[str, str]


def follows(chosen: Chosen, pane: str) -> bool:
    """Whether a pane follows."""
    return chosen.get(_mark(pane)) == NEWEST


def set_following(chosen: Chosen, pane: str, *, on: bool) -> None:
    """Let a pane follow from now on, or no longer."""
    chosen.pop(_mark(pane), None)
    if on:
        chosen[_mark(pane)] = NEWEST


def entry_of(chosen: Chosen, pane: str) -> str:
    """Which entry of its menu a pane shows."""
    return NEWEST if follows(chosen, pane) else chosen[pane]


def newest_key(library: SourceLibrary, model: str) -> str:
    """The checkpoint that was saved last by a training on ``model``; the base until there is one."""
    newest = library.newest(model)
    return newest.key if newest is not None else BASE


def catch_up(chosen: Chosen, library: SourceLibrary, model: str) -> None:
    """Swap the newest checkpoint into the panes that follow."""
    chosen.update({pane: newest_key(library, model) for pane in PANES if follows(chosen, pane)})


def marks_in(stored: dict[str, object]) -> Chosen:
    """Which panes follow, of what a browser kept."""
    return {_mark(pane): NEWEST for pane in PANES if stored.get(_mark(pane)) == NEWEST}


def can_follow(sources: list[Source]) -> bool:
    """Whether there is a training's checkpoint to follow."""
    return any(source.of_run for source in sources)


def _mark(pane: str) -> str:
    return f"{pane}_follows"
