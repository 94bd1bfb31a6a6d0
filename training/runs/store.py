"""Training runs on disk: one directory each, as `layout.py` describes it, which is all that is known about a run.

    output/my-run/

Page, command line and trainer read and write the same files. Knows how a run is stored and read; starting and training
are `process.py`'s and `worker.py`'s.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatglm2.errors import RunError
from chatglm2.files import open_regular
from training.runs import layout
from training.runs.checkpoints import LARGEST_STEP, LATEST_TIME, CheckpointInfo, checkpoints_in
from training.runs.events import Event, StepEvent, append_event, last_event, read_events
from training.runs.layout import (
    EVENTS_FILE,
    LOG_FILE,
    RESERVE_FILE,
    RUN_FILE,
    SHARE_FILE,
    STAGING_DIRECTORY,
    STOP_FILE,
)
from training.runs.liveness import SILENT_SECONDS, Lease, describe_silence, is_running, start_time, this_boot, this_host
from training.runs.naming import SAFE_NAME, checked_name
from training.runs.storage import (
    changing,
    explaining_storage_errors,
    read_json,
    remove_directory,
    write_atomically,
)
from training.settings.problems import describe_problem
from training.settings.train import Share, TrainingSettings, setting_fields

DEFAULT_STORE = "output"
RESERVED_BYTES = 64 * 1024
LOG_TAIL_BYTES = 64 * 1024
LOG_PROGRESS = " INFO "  # a line that tells of progress, not of an end
# How long a run may be "starting" before its process is known: the time between two writes of `process.py`.
LAUNCH_SECONDS = 20.0
# Silence that means nothing: importing and loading hold Python's lock, and a step may take long.
STARTING_SILENCE_SECONDS = 60.0
SILENT_STEPS = 10


class Status(StrEnum):
    """Where a run is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    SILENT = "silent"
    QUEUED = "queued"  # waits until nothing else is trained; see `training.queue`

    @property
    def is_active(self) -> bool:
        """Whether there is a trainer, at work or silent."""
        return self in (Status.STARTING, Status.RUNNING, Status.STOPPING, Status.SILENT)


class RunState(BaseModel):
    """A run's state. ``pid_started_at`` is in seconds since boot, the other times in seconds since the epoch.

    ``pid`` means a process of the machine ``host`` while that runs as ``boot``; ``best_step`` is the step of the
    checkpoint that validated best. ``queued_at`` is when it was put in line, ``sweep`` the name of those that it was
    made with.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Status = Status.STARTING
    pid: int | None = Field(default=None, ge=1, lt=2**31)
    pid_started_at: float | None = None
    host: str = ""
    boot: str = ""
    resume_step: int | None = Field(default=None, ge=0, le=LARGEST_STEP)
    best_step: int | None = Field(default=None, ge=0, le=LARGEST_STEP)
    updated_at: float = 0.0
    queued_at: float = Field(default=0.0, ge=0, le=LATEST_TIME)
    sweep: str = ""
    message_en: str = ""
    message_zh: str = ""


class _RunFile(BaseModel):
    """What ``run.json`` holds; what a newer version added stays in it. The settings check themselves when used."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = 1
    created_at: float = Field(default=0.0, ge=0, le=LATEST_TIME)
    settings: dict[str, Any]
    state: RunState

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), ensure_ascii=False, indent=2) + "\n"


class Run:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def log_file(self) -> Path:
        """What the trainer's libraries said."""
        return self.path / LOG_FILE

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it appears."""
        return self.path / STAGING_DIRECTORY

    def settings(self) -> TrainingSettings:
        """What the run was asked to do, and since then; settings of a newer version are left out."""
        known = {item.name for item in setting_fields()}
        stored = self._read().settings
        named = {name: value for name, value in stored.items() if name in known}
        settings = TrainingSettings.from_dict(BEFORE_KEEPING | named)
        return replace(settings, share=self._changed_share() or settings.share)

    def created_at(self) -> float:
        """When the run was created, in seconds since the epoch."""
        return self._read().created_at

    @property
    def lease(self) -> Lease:
        """The right to train it."""
        return Lease(self.path)

    def state(self) -> RunState:
        """The state as it is now: a run whose trainer is gone reads as interrupted, one asked to stop as stopping."""
        state = self._read().state
        if not state.status.is_active:
            return state
        if self._has_trainer(state):
            if self._is_silent(state):
                return self._silent(state)
            return state.model_copy(update={"status": Status.STOPPING}) if self.stop_requested() else state
        if state.pid is None and abs(time.time() - state.updated_at) < LAUNCH_SECONDS:
            return state
        en, zh = self._last_words()
        return state.model_copy(update={"status": Status.INTERRUPTED, "message_en": en, "message_zh": zh})

    def name_trainer(self, pid: int) -> None:
        """Process ``pid`` of this machine trains the run from now on."""
        self.update(pid=pid, pid_started_at=start_time(pid), host=this_host(), boot=this_boot())

    def _has_trainer(self, state: RunState) -> bool:
        """Whether its process runs; another machine's or container's is known by its lease alone."""
        if state.pid is None:
            return False
        if state.boot in ("", this_boot()):
            return is_running(state.pid, state.pid_started_at)
        silent = self.lease.seconds_silent()
        return silent is not None and (abs(silent) < SILENT_SECONDS or self.lease.is_held())

    def _is_silent(self, state: RunState) -> bool:
        silent = self.lease.seconds_silent()
        if silent is None or silent < SILENT_SECONDS:
            return False
        if state.status is Status.STARTING:
            return silent >= STARTING_SILENCE_SECONDS
        step = last_event(self.events()[0], StepEvent)
        return step is None or silent >= SILENT_STEPS * step.seconds_per_step

    def _silent(self, state: RunState) -> RunState:
        en, zh = describe_silence(state.pid, state.host or this_host(), self.lease.seconds_silent() or 0.0)
        return state.model_copy(update={"status": Status.SILENT, "message_en": en, "message_zh": zh})

    def update(self, *, settings: TrainingSettings | None = None, **changes: Any) -> None:
        """Replace parts of the stored state, and the settings if given."""
        file = self.path / RUN_FILE
        self._read()  # where there is no run, none is changed
        with explaining_storage_errors(file), changing(file):
            content = self._read()
            state = RunState.model_validate({**content.state.model_dump(), **changes, "updated_at": time.time()})
            stored = content.settings if settings is None else settings.to_dict()
            write_atomically(file, content.model_copy(update={"state": state, "settings": stored}).to_json())

    def append(self, event: Event) -> None:
        """Tell the world."""
        with explaining_storage_errors(self.path / EVENTS_FILE):
            append_event(self.path / EVENTS_FILE, event)

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events from a byte offset on, and the offset for next time."""
        return read_events(self.path / EVENTS_FILE, offset)

    def log_tail(self, lines: int = 100) -> str:
        """The last lines of the log."""
        try:
            with open_regular(self.log_file) as file:
                size = file.seek(0, 2)
                file.seek(max(size - LOG_TAIL_BYTES, 0))
                text = file.read(LOG_TAIL_BYTES).decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def checkpoints(self) -> list[CheckpointInfo]:
        """The run's complete checkpoints, by step; the one that validated best is marked."""
        found = checkpoints_in(self.path)
        best_step = self._read().state.best_step if found else None
        return [replace(info, run_name=self.name, is_best=info.step == best_step) for info in found]

    def final_checkpoint(self) -> CheckpointInfo:
        """What the run is good for: the checkpoint that validated best if it was to be kept, else the last one.

        Raises:
            RunError: if there is none.
        """
        found = self.checkpoints()
        if not found:
            raise RunError(
                f"{self.name} has no checkpoint. Let it train until one is saved.",
                f"{self.name} 还没有检查点，请等训练保存一个后再试。",
            )
        best = next((info for info in found if info.is_best), None)
        return best if best and self.keeps_best() else found[-1]

    def keeps_best(self) -> bool:
        """Whether the checkpoint that validates best is what the run is for."""
        return bool(self._read().settings.get("load_best_model_at_end"))

    def resumable_checkpoints(self) -> list[CheckpointInfo]:
        """Those that training can go on from."""
        return [info for info in self.checkpoints() if info.can_resume]

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.path / f"checkpoint-{step}"

    def delete_checkpoint(self, step: int) -> None:
        """Delete one checkpoint.

        Raises:
            RunError: if there is none for that step, or it cannot be deleted.
        """
        place = self.checkpoint_path(step)
        if not place.is_dir():
            kept = ", ".join(str(info.step) for info in self.checkpoints()) or "none"
            raise RunError(
                f"{self.name} has no checkpoint of step {step}; it has {kept}.",
                f"{self.name} 没有第 {step} 步的检查点，现有：{kept}。",
            )
        with explaining_storage_errors(place):
            remove_directory(place)

    def stop_requested(self) -> bool:
        """Whether somebody asked the trainer to stop."""
        return (self.path / STOP_FILE).exists()

    def set_stop_request(self, wanted: bool) -> None:
        """Ask the trainer to stop after its step, or take that back."""
        with explaining_storage_errors(self.path / STOP_FILE):
            if wanted:
                (self.path / STOP_FILE).touch()
            else:
                (self.path / STOP_FILE).unlink(missing_ok=True)

    def share(self) -> Share:
        """Who goes first on the device."""
        return self.settings().share

    def set_share(self, value: str) -> None:
        """Change who goes first on the device, also while the run is being trained.

        Raises:
            RunError: for a value that it cannot have.
        """
        if value not in get_args(Share):
            allowed = ", ".join(get_args(Share))
            raise RunError(
                f"--share is one of {allowed}; found {value!r}.", f"--share 只能是 {allowed}，实际为 {value!r}。"
            )
        # A file of its own: the trainer replaces the run's file whenever it has something to say.
        with explaining_storage_errors(self.path / SHARE_FILE):
            write_atomically(self.path / SHARE_FILE, value + "\n")

    def settle_share(self) -> None:
        """Forget the change: the stored settings hold it now."""
        with explaining_storage_errors(self.path / SHARE_FILE):
            (self.path / SHARE_FILE).unlink(missing_ok=True)

    def _changed_share(self) -> Share | None:
        try:
            with open_regular(self.path / SHARE_FILE) as file:
                found = file.read(LOG_TAIL_BYTES).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return next((share for share in get_args(Share) if share == found), None)

    def reserve_space(self) -> None:
        """Keep some disk for the last word of a run that fills the disk; `discard_leftovers` gives it back."""
        with explaining_storage_errors(self.path):
            (self.path / RESERVE_FILE).write_bytes(bytes(RESERVED_BYTES))

    def discard_leftovers(self) -> None:
        """Delete what a trainer left half done, and the space it kept."""
        layout.discard_leftovers(self.path)

    def set_aside_after(self, step: int) -> Path | None:
        """Move checkpoints of later steps out of the way of a training that does those again; returns where to."""
        with explaining_storage_errors(self.path):
            return layout.set_aside_after(self.path, step)

    @property
    def replaced(self) -> Path | None:
        """Where the run lies that this one replaces, until this one has a checkpoint."""
        place = self.path / layout.REPLACED
        return place if place.is_dir() else None

    def forget_replaced(self) -> None:
        """Delete the run that this one has replaced; what cannot be deleted stays."""
        with contextlib.suppress(OSError):
            layout.forget_replaced(self.path)

    def _last_words(self) -> tuple[str, str]:
        last = self.log_tail(1).strip()
        if LOG_PROGRESS in last:
            last = ""
        en = "The training process is gone without a word: it was killed, or the machine went down."
        zh = "训练进程已不存在，且没有留下说明：可能被终止，或机器重启过。"
        return (f"{en} Last line of its log: {last}", f"{zh}日志最后一行：{last}") if last else (en, zh)

    def _read(self) -> _RunFile:
        en = zh = ""
        try:
            return _RunFile.model_validate(read_json(self.path / RUN_FILE))
        except FileNotFoundError:
            pass
        except ValidationError as error:
            problem, problem_zh = describe_problem(error)
            en, zh = f" ({problem})", f"（{problem_zh}）"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            en, zh = f" ({reason})", f"（{reason}）"
        raise RunError(
            f"{self.path} is no training run: expected a readable {RUN_FILE} in it{en}. Choose a run's own directory.",
            f"{self.path} 不是训练目录：其中应有可读取的 {RUN_FILE}{zh}。请选择某次训练的目录。",
        )


# What a run did that was created before there was a choice.
BEFORE_KEEPING = {"prefix_init": "random", "keep": 0.0}


class RunStore:
    """All runs below one directory."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def list(self) -> list[Run]:
        """All readable runs, the newest first."""
        found = []
        for run in self._runs():
            with contextlib.suppress(RunError):
                found.append((run.created_at(), run))
        return [run for _, run in sorted(found, key=lambda item: item[0], reverse=True)]

    def broken(self) -> Iterator[tuple[Run, RunError]]:
        """Runs that are there and cannot be used, with the reason."""
        for run in self._runs():
            try:
                run.state()
                run.settings()
            except RunError as error:
                yield run, error

    def get(self, name: str) -> Run:
        """The run called ``name``.

        Raises:
            RunError: if there is none.
        """
        run = Run(self.root / checked_name(name))
        if not (run.path / RUN_FILE).is_file():
            names = ", ".join(other.name for other in self.list()[:5]) or "none"
            raise RunError(
                f"There is no run {name!r} in {self.root}; the latest are: {names}.",
                f"{self.root} 中没有名为 {name!r} 的训练，最近的有：{names}。",
            )
        return run

    def active(self) -> Run | None:
        """The run that a trainer is working on now."""
        for run in self._runs():
            with contextlib.suppress(RunError):
                state = run.state()
                if state.status.is_active and state.pid:
                    return run
        return None

    def create(self, settings: TrainingSettings, name: str | None = None, *, overwrite: bool = False) -> Run:
        """A new run, ready to be started.

        Args:
            settings: what it shall do.
            name: of its directory; made from data, prefix length and time if not given.
            overwrite: replace a run of that name once this one has its first checkpoint; until then it is put aside.

        Raises:
            RunError: if the name is taken or cannot be a directory's, or nothing can be written.
        """
        run = Run(self.root / (checked_name(name) if name else self._free_name(settings)))
        if overwrite and run.path.is_dir():
            self._put_aside(run)
        with explaining_storage_errors(run.path):
            try:
                run.path.mkdir(parents=True, exist_ok=overwrite)
            except FileExistsError:
                if (run.path / RUN_FILE).exists() or not run.path.is_dir() or any(run.path.iterdir()):
                    raise _name_taken(run) from None
            now = time.time()
            content = _RunFile(created_at=now, settings=settings.to_dict(), state=RunState(updated_at=now))
            try:
                write_atomically(run.path / RUN_FILE, content.to_json())
            except OSError:
                layout.put_back(run.path)
                with contextlib.suppress(OSError):  # not empty: what was there before
                    run.path.rmdir()
                raise
        return run

    def _runs(self) -> Iterator[Run]:
        """Readable or not; what is being deleted has no name that a run can have."""
        files = self.root.glob(f"*/{RUN_FILE}")
        return (Run(file.parent) for file in files if SAFE_NAME.fullmatch(file.parent.name))

    def _free_name(self, settings: TrainingSettings) -> str:
        stem = re.sub(r"[^\w\-]+", "-", Path(settings.train_file).stem).strip("-_")[:40] or "run"
        kind = "full" if settings.trains_all_weights else f"p{settings.pre_seq_len}"
        base = f"{stem}-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        taken = {item.name for item in self.root.glob(f"{base}*")}
        candidates = (base, *(f"{base}-{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in candidates if name not in taken)

    def _put_aside(self, run: Run) -> None:
        try:
            state = run.state()
        except RunError:  # one that cannot be read, or none, is replaced as well
            state = RunState()
        if run.lease.is_held() or (state.status.is_active and state.pid):
            raise RunError(
                f"{run.name} is being trained right now: stop it first, or choose another name.",
                f"{run.name} 正在训练：请先停止，或换一个名字。",
            )
        with explaining_storage_errors(run.path):
            run.discard_leftovers()
            layout.put_aside(run.path)


class NameTakenError(RunError):
    """There is a run of that name already."""


def _name_taken(run: Run) -> NameTakenError:
    return NameTakenError(
        f"{run.path} exists already. Choose another name, or resume that run.",
        f"{run.path} 已存在。请换一个名字，或继续那次训练。",
    )
