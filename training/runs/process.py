"""Starting, watching and stopping a training, whose process outlives whoever starts it.

Knows when a run may begin, go on or stop; trains nothing. The trainer writes to files only, so nobody has to listen to
it. How its process comes to be is `launch.py`'s.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from chatglm2.errors import RunError
from training.runs.launch import spawn
from training.runs.layout import discard_run
from training.runs.liveness import LEAVE_SECONDS, is_running
from training.runs.storage import explaining_storage_errors
from training.runs.store import Run, RunState, RunStore, Status
from training.settings.train import TrainingSettings, setting_fields

Begin = Callable[[Run], int]
LOCK_FILE = ".lock"
LOCK_SECONDS = 10.0
# What a resumed run may do differently without becoming another run.
RESUMABLE_CHANGES = frozenset(
    (
        *("max_steps", "num_train_epochs", "save_steps", "save_total_limit", "logging_steps", "eval_steps"),
        *("device", "share"),
    )
)


def start(run: Run, begin: Begin = spawn) -> None:
    """Start training a new run in a process of its own; a run that cannot be started is taken back.

    Args:
        run: the run.
        begin: has it trained by a process, and gives that one's id.

    Raises:
        RunError: if another run of the store is being trained, or the process cannot be started.
    """
    _launch_new(run, begin)


def start_here(run: Run) -> None:
    """Let this process be the trainer of a new run; errors as in `start`."""
    _launch_new(run, _stay_here)


def require_idle(store: RunStore) -> None:
    """Check that nothing is being trained, before work that would be in vain.

    Raises:
        RunError: naming the run that is.
    """
    active = store.active()
    if active is not None:
        raise RunError(
            f"{active.name} is being trained. One training at a time: stop it first, or wait until it is done.",
            f"{active.name} 正在训练。同一时间只能进行一个训练：请先停止它，或等它完成。",
        )


def require_launcher(settings: TrainingSettings) -> None:
    """Check that there is what sharing the weights needs, before work that would be in vain.

    Raises:
        RunError: if torchrun did not start this process, or DeepSpeed or its file is not there.
    """
    if not settings.shares_weights:
        return
    flag = "--deepspeed" if settings.deepspeed else "--fsdp"
    if "WORLD_SIZE" not in os.environ:
        raise RunError(
            f"{flag} shares the weights among processes, and this is only one. Start them with torchrun: "
            f"torchrun --standalone --nproc_per_node 4 -m training.main … {flag}",
            f"{flag} 由多个进程分摊权重，而当前只有一个进程。请用 torchrun 启动："
            f"torchrun --standalone --nproc_per_node 4 -m training.main … {flag}",
        )
    if settings.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise RunError(
            "--deepspeed needs the deepspeed package, which is not installed: .venv/bin/python -m pip install "
            "deepspeed. Or use --fsdp instead, which needs nothing more (SHARING=fsdp in the script).",
            "--deepspeed 需要 deepspeed 包，当前未安装：.venv/bin/python -m pip install deepspeed。"
            "也可改用无需额外安装的 --fsdp（脚本中为 SHARING=fsdp）。",
        )
    if settings.deepspeed and not Path(settings.deepspeed).is_file():
        raise RunError(
            f"--deepspeed: there is no file {settings.deepspeed}. Check the path; "
            "training/scripts/deepspeed.json is ours.",
            f"--deepspeed：文件 {settings.deepspeed} 不存在，请检查路径；本项目自带 training/scripts/deepspeed.json。",
        )


def resume_here(run: Run, step: int | None = None, settings: TrainingSettings | None = None) -> None:
    """Let this process go on with a run; arguments and errors as in `resume`."""
    resume(run, step, settings, begin=_stay_here)


def resume(
    run: Run,
    step: int | None = None,
    settings: TrainingSettings | None = None,
    begin: Begin = spawn,
) -> None:
    """Go on with a run that has ended, from its last checkpoint or that of ``step``.

    A run that was cut off before its first checkpoint starts again.

    Args:
        run: the run.
        step: the checkpoint's; the last one's if not given.
        settings: changed ones, such as more steps.
        begin: has it trained by a process, and gives that one's id.

    Raises:
        RunError: if it is still being trained, has nothing left to do, or ``settings`` make it another run.
    """
    if run.state().status.is_active or run.lease.is_held(LEAVE_SECONDS):
        raise RunError(f"{run.name} is being trained already.", f"{run.name} 正在训练中。")
    chosen = run.settings() if settings is None else settings
    _check_same_run(run, chosen)
    resume_step = _resume_step(run, step)
    if resume_step is not None and 0 < chosen.max_steps <= resume_step:
        raise RunError(
            f"{run.name} has done all its {chosen.max_steps} steps. Give it more with --max_steps, or continue on new "
            "data from its checkpoint with --ptuning_checkpoint.",
            f"{run.name} 的 {chosen.max_steps} 步已全部完成。可用 --max_steps 增加步数，"
            "或用 --ptuning_checkpoint 从它的检查点开始新的训练。",
        )
    _launch(run, begin, resume_step=resume_step, settings=chosen)


def is_alive(state: RunState) -> bool:
    """Whether the trainer that a state names is still running: its id and its start agree."""
    return is_running(state.pid, state.pid_started_at)


def request_stop(run: Run) -> None:
    """Ask a run to finish its step, save and stop.

    Raises:
        RunError: if it is not being trained.
    """
    _require_active(run)
    run.set_stop_request(True)


def set_share(run: Run, value: str) -> None:
    """Change who goes first on the device, for a run that is being trained.

    Raises:
        RunError: if it is not, or for a value that there is not.
    """
    _require_active(run)
    run.set_share(value)


def _require_active(run: Run) -> None:
    status = run.state().status
    if not status.is_active:
        raise RunError(
            f"{run.name} is not being trained: it is {status}.", f"{run.name} 当前没有在训练（状态：{status}）。"
        )


def _launch_new(run: Run, begin: Begin) -> None:
    try:
        _launch(run, begin, resume_step=None)
    except RunError:
        discard_run(run.path)
        raise


def _launch(run: Run, begin: Begin, resume_step: int | None, settings: TrainingSettings | None = None) -> None:
    store = RunStore(run.path.parent)
    with starting(store):
        require_idle(store)
        hand_over(run, begin, resume_step, settings)


@contextlib.contextmanager
def starting(store: RunStore) -> Iterator[None]:
    """Be alone in deciding which run of the store is trained.

    Raises:
        RunError: somebody else is for longer than that takes.
    """
    try:
        with explaining_storage_errors(store.root), FileLock(store.root / LOCK_FILE, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise RunError(
            "Another training is being started at this moment. Try again in a few seconds.",
            "另一个训练正在启动，请几秒后再试。",
        ) from None


def hand_over(run: Run, begin: Begin, resume_step: int | None = None, settings: TrainingSettings | None = None) -> None:
    """Give a run to a process that trains it, for who is `starting` and knows that nothing else is trained."""
    run.discard_leftovers()
    run.set_stop_request(False)
    changes = {"status": Status.STARTING, "pid": None, "resume_step": resume_step}
    run.update(settings=settings, message_en="", message_zh="", **changes)
    run.lease.touch()
    run.settle_share()
    run.name_trainer(begin(run))


def _stay_here(run: Run) -> int:
    return os.getpid()


def _check_same_run(run: Run, settings: TrainingSettings) -> None:
    before, after = run.settings().to_dict(), settings.to_dict()
    free = RESUMABLE_CHANGES | {item.name for item in setting_fields() if item.group == "evaluation"}
    changed = [f"--{name}" for name in before if before[name] != after[name] and name not in free]
    if changed:
        listed = ", ".join(changed)
        raise RunError(
            f"Resuming {run.name} goes on with the same training, so {listed} cannot change. To train on from its "
            "prefix in another way, start a new run with --ptuning_checkpoint.",
            f"继续训练 {run.name} 时不能更改 {listed}。若要以其前缀为起点换一种方式训练，"
            "请用 --ptuning_checkpoint 开始新的训练。",
        )


def _resume_step(run: Run, step: int | None) -> int | None:
    steps = [info.step for info in run.resumable_checkpoints()]
    if step is None:
        return steps[-1] if steps else None
    if step not in steps:
        kept = ", ".join(map(str, steps)) or "none"
        raise RunError(
            f"{run.name} has no checkpoint of step {step} to resume from; it has {kept}.",
            f"{run.name} 没有可以继续的第 {step} 步检查点，现有：{kept}。",
        )
    return step
