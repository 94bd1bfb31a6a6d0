"""What a run's directory holds, and what becomes of it when a run begins anew or goes on from an earlier step.

    run.json           settings and state, replaced as a whole
    events.jsonl       what happened, appended
    train.log          what the trainer's libraries said
    checkpoint-N/      complete once it is there
    stop               there if somebody asked the trainer to stop
    note.txt           there if somebody wrote something beside the run
    pinned.json        prompts that are answered at every checkpoint, there if any are pinned
    share              there if who goes first on the device was changed since
    replaced/          the run that was here before, until this one has its first checkpoint
    set-aside-1/       checkpoints of steps that a run, going on from an earlier one, does again

What was computed is moved before it is deleted, and deleted only for what takes its place. Knows names of files; does
not know what is in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from training.runs.checkpoints import DIRECTORY_NAME
from training.runs.liveness import LEASE_FILE
from training.runs.storage import delete, discard_hidden, remove_directory

RUN_FILE = "run.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "train.log"
STOP_FILE = "stop"
SHARE_FILE = "share"
NOTE_FILE, PINS_FILE = "note.txt", "pinned.json"
ANSWERS_FILE = "retention.json"
BASE_ANSWERS_FILE = "base_answers.json"
STAGING_DIRECTORY = ".staging"
RESERVE_FILE = ".reserve.partial"
REPLACED, SET_ASIDE = "replaced", "set-aside-"
# The first is what makes a directory a run: without it, what is left belongs to the run that is being moved.
RECORDS = (
    *(RUN_FILE, EVENTS_FILE, LOG_FILE, STOP_FILE, SHARE_FILE),
    *(NOTE_FILE, PINS_FILE, ANSWERS_FILE, BASE_ANSWERS_FILE),
)
# What evaluations of it left beside it.
RESULTS = ("*report.html", "*report.json", "*_results.json", "generated_predictions*", "*_answers.partial.jsonl")


def put_aside(directory: Path) -> None:
    """Move the run in ``directory`` to `REPLACED`; what is not ours stays where it is."""
    aside = directory / REPLACED
    results = [item for pattern in RESULTS for item in directory.glob(pattern)]
    computed = [*_checkpoint_directories(directory), *directory.glob(f"{SET_ASIDE}*"), *results]
    if aside.exists() and (directory / RUN_FILE).exists():
        if not _checkpoint_directories(directory):  # a run that came to nothing replaces nothing
            _delete_records(directory)
            return
        remove_directory(aside)
    records = [directory / name for name in RECORDS if (directory / name).exists()]
    if not records and not computed:
        return
    try:
        aside.mkdir(exist_ok=True)
        _move((*records, *computed), aside)
    except OSError:
        put_back(directory)
        raise


def forget_replaced(directory: Path) -> None:
    """Delete what the run has replaced by now."""
    if (directory / REPLACED).is_dir():
        remove_directory(directory / REPLACED)


def discard_run(directory: Path) -> None:
    """Take back a run that was never started: what it was to replace is there again, and what is not ours stays."""
    _delete_records(directory)
    discard_leftovers(directory)
    (directory / LEASE_FILE).unlink(missing_ok=True)
    put_back(directory)
    with contextlib.suppress(OSError):  # not empty: somebody else's files, or the run before
        directory.rmdir()


def put_back(directory: Path) -> None:
    """Undo `put_aside`, or what was done of it."""
    aside = directory / REPLACED
    if aside.is_dir():
        _move(sorted(aside.iterdir(), key=lambda item: item.name == RUN_FILE), directory)
        aside.rmdir()


def set_aside_after(directory: Path, step: int) -> Path | None:
    """Move checkpoints of later steps to a directory of their own; returns that, or None if there are none."""
    later = [item for item in _checkpoint_directories(directory) if _step(item) > step]
    if not later:
        return None
    taken = {item.name for item in directory.glob(f"{SET_ASIDE}*")}
    place = next(
        directory / name for number in range(1, len(taken) + 2) if (name := f"{SET_ASIDE}{number}") not in taken
    )
    place.mkdir()
    _move(later, place)
    return place


def discard_leftovers(directory: Path) -> None:
    """Delete what a trainer left half done, and the space it kept."""
    for name in (STAGING_DIRECTORY, RESERVE_FILE):
        delete(directory / name)
    discard_hidden(directory)


def _checkpoint_directories(directory: Path) -> list[Path]:
    """By step; complete or not."""
    return sorted((item for item in directory.glob("checkpoint-*") if DIRECTORY_NAME.fullmatch(item.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _delete_records(directory: Path) -> None:
    for name in RECORDS:
        (directory / name).unlink(missing_ok=True)


def _move(items: Iterable[Path], target: Path) -> None:
    for item in items:
        place = target / item.name
        if place.is_dir():
            remove_directory(place)
        item.replace(place)
