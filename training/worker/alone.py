"""The trainer's process: from a run's directory to its end, whatever that is.

Loads what the run's settings name, trains, and leaves a state and a last word. Everything it prints goes to the run's
log, which somebody else opened for it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers.utils.logging

from chatglm2.checkpoints.hub import resolve_model_directory
from chatglm2.checkpoints.loading import default_device, read_config
from chatglm2.errors import ChatGLMError, RunError
from chatglm2.memory.estimate import weight_bytes
from chatglm2.memory.lending import Loan, borrow
from training.data.batching import ExampleDataset
from training.distributed.ranks import ALONE, Ranks, is_lost_connection
from training.keep.prepare import prepare_kept_rows
from training.loop.full_trainer import FullTrainer
from training.loop.model_setup import prepare_model
from training.loop.passes import is_out_of_memory
from training.loop.pinned import PinnedWatch
from training.loop.questioner import Questioner
from training.loop.retention import RetentionWatch, read_prompts
from training.loop.run_data import load_data, start_sentence
from training.loop.trainer import PrefixTrainer, RunTrainer
from training.plan.base_model import require_device
from training.plan.fitting import require_room_here
from training.plan.forecast import allocator_bytes
from training.plan.step_plan import (
    Place,
    StepPlan,
    bytes_wanted,
    learning_bytes,
    place_for,
    plan_step,
    workspaces,
)
from training.queue.line import advance
from training.runs.events import (
    EndedEvent,
    FailedEvent,
    FinishedEvent,
    MemoryEvent,
    MessageEvent,
    PhaseEvent,
    StoppedEvent,
)
from training.runs.results import write_results
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)
HANDOVER_SECONDS = 10.0
# How long a process that lost another one waits for that one's word.
LAST_WORD_SECONDS = 3.0


def work(directory: Path) -> int:
    """Train the run in ``directory``; returns the process's exit code."""
    run = Run(directory)
    prepare_logging()
    with holding(run):
        _take_over(run)
        was_signalled = stop_on_signals(run)
        ended = carry_out(run)
        conclude(run, ended)
    if not was_signalled.is_set():  # else the machine may be going down, and the next run would go down with it
        _start_next(run)
    return 1 if isinstance(ended, FailedEvent) else 0


@contextmanager
def holding(run: Run) -> Iterator[None]:
    """Be the one process that trains ``run``.

    Raises:
        RunError: if another one is; nothing of the run is touched then.
    """
    with run.lease.held() as is_mine:
        if not is_mine:
            raise RunError(
                f"{run.path} is being trained by another process, perhaps on another machine. Stop that one first.",
                f"{run.path} 正由另一个进程训练（可能在另一台机器上）。请先停止它。",
            )
        yield


def prepare_logging(file: Path | None = None, level: int = logging.INFO) -> None:
    """Log to ``file``, or to where this process's errors go."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler()],
    )
    transformers.utils.logging.disable_progress_bar()


def carry_out(run: Run, ranks: Ranks = ALONE) -> EndedEvent:
    """Train, and say how it ended, whatever that is."""
    try:
        run.reserve_space()
        return train(run, ranks)
    except ChatGLMError as error:
        logger.error("%s", error.en)
        return FailedEvent(step=_last_step(run), en=error.en, zh=error.zh)
    except Exception as error:
        if ranks.size > 1 and is_lost_connection(error):
            return _lost_process(run, ranks)
        logger.exception("Training failed")
        return _unexpected(run, error)


def train(run: Run, ranks: Ranks = ALONE) -> EndedEvent:
    """Load, train and say how it ended."""
    settings = run.settings()
    require_device(settings)
    resume_step = run.state().resume_step
    run.append(PhaseEvent(phase="reading"))
    dataset, eval_dataset = load_data(run, settings)
    checkpoint = run.checkpoint_path(resume_step) if resume_step is not None else None
    if checkpoint is not None:
        _say_what_goes_on(run, checkpoint, settings, ranks)
    run.append(PhaseEvent(phase="loading"))
    with _borrowed(settings, checkpoint, ranks) as loan:
        return _train_model(run, settings, (dataset, eval_dataset), checkpoint, ranks, loan)


def _train_model(
    run: Run,
    settings: TrainingSettings,
    data: tuple[ExampleDataset, ExampleDataset | None],
    checkpoint: Path | None,
    ranks: Ranks,
    loan: Loan | None,
) -> EndedEvent:
    model = prepare_model(run, settings, checkpoint, ranks, lambda: start_sentence(settings, data[0]))
    run.append(PhaseEvent(phase="preparing"))
    kind = PrefixTrainer if settings.pre_seq_len else FullTrainer
    if ranks.size == 1 and not settings.trains_all_weights:
        require_room_here(model, settings)
    plan = ranks.share(plan_step(model, settings, ranks.size))
    _say_plan(run, settings, plan)
    tokenizer = data[0].encoder.tokenizer
    watched = read_prompts(settings) if settings.keep else ()
    kept = prepare_kept_rows(run, settings, model, tokenizer, watched, ranks)
    trainer: RunTrainer = kind(run, settings, model, *data, plan, ranks, loan, kept)
    questioner = Questioner(trainer.whole_model, tokenizer, trainer.meter, trainer.gate)
    if settings.checks_retention:
        trainer.add_callback(RetentionWatch(run, settings, questioner))
    if not settings.shares_weights:
        trainer.add_callback(PinnedWatch(run, settings, questioner))
    with _lent_for(plan, model.device, loan):
        trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _say_memory(run, settings, trainer, plan)
    if ranks.is_first:
        _write_results(run, {**trained.metrics, "train_samples": data[0].mixture.task_rows})
    ranks.wait()  # the first process to conclude clears away what the others may still look into
    return _ending(trainer)


def _write_results(run: Run, found: Mapping[str, object]) -> None:
    """The original's ``train_results.json``; what was trained is safe already, so a full disk only costs this file."""
    try:
        write_results(run.path, "train", found)
    except (OSError, RunError):
        logger.warning("train_results.json could not be written", exc_info=True)


@contextmanager
def _borrowed(settings: TrainingSettings, checkpoint: Path | None, ranks: Ranks) -> Iterator[Loan | None]:
    """What the user's other processes on the device lend until the run ends; several processes borrow nothing."""
    if ranks.size > 1:
        yield None
        return
    device = default_device() if settings.device == "auto" else torch.device(settings.device)
    whole = checkpoint if settings.trains_all_weights else None  # such a checkpoint is all the model that is needed
    config = read_config(resolve_model_directory(whole or settings.model_name_or_path, hub=settings.hub))
    with borrow(bytes_wanted(settings, place_for(settings, config, device)), device) as loan:
        yield loan


@contextmanager
def _lent_for(plan: StepPlan, device: torch.device, loan: Loan | None) -> Iterator[None]:
    """Have the lenders leave what the chosen passes take, not only what the smallest would."""
    if loan is None or not loan.lent:
        yield
        return
    with borrow(plan.bytes, device):
        yield


def _say_memory(run: Run, settings: TrainingSettings, trainer: RunTrainer, plan: StepPlan) -> None:
    """What was taken of a GPU, beside what was expected."""
    device = trainer.args.device
    if device.type != "cuda" or settings.trains_all_weights:
        return
    model = trainer.whole_model
    config, bits = model.config, model.config.quantization_bit
    place = Place(config, model.dtype, bits, device, trainer.ranks.size)
    planned = {
        "weights": 0 if model.shared_weights is not None else weight_bytes(config, model.dtype.itemsize, bits),
        "workspaces": workspaces(device),
        "learning": learning_bytes(settings, place),
        "activations": plan.memory.activations,
        "prefixes": plan.memory.prefixes,
        "working": plan.memory.working,
        "allocator": allocator_bytes(plan),
    }
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    run.append(
        MemoryEvent(planned=planned, allocated=allocated, reserved=reserved, steps=int(trainer.state.global_step))
    )


def _say_what_goes_on(run: Run, checkpoint: Path, settings: TrainingSettings, ranks: Ranks) -> None:
    """A resumed run is no warm start; and with other processes than before its batches are others."""
    what_en, what_zh = ("the weights", "权重") if settings.trains_all_weights else ("the prefix", "前缀")
    run.append(
        MessageEvent(
            en=f"Resuming from {checkpoint.name}: {what_en}, the optimizer and the order of the data go on.",
            zh=f"从 {checkpoint.name} 继续：{what_zh}、优化器和数据顺序都接着进行。",
        )
    )
    before = len(list(checkpoint.glob("rng_state*.pth")))
    if before and before != ranks.size:
        run.append(
            MessageEvent(
                en=f"It was saved by {before} processes, and now there are {ranks.size}: a step takes other rows than "
                "it would have.",
                zh=f"保存时有 {before} 个进程，现在有 {ranks.size} 个：每一步使用的数据与原来不同。",
            )
        )


def _say_plan(run: Run, settings: TrainingSettings, plan: StepPlan) -> None:
    """What was picked for the memory that is free, where there was something to pick."""
    asked, picked = settings.gradient_accumulation_steps, settings.gradient_accumulation_steps // plan.merged
    rows = settings.per_device_train_batch_size * plan.merged
    kept_en, kept_zh = ("computed again", "重算") if plan.recomputes else ("kept", "保留")
    if plan.merged > 1:
        run.append(
            MessageEvent(
                en=f"There is memory for {rows} rows at a time: {picked} instead of {asked} batches a step, with the "
                f"same loss. Activations are {kept_en}.",
                zh=f"内存足够一次计算 {rows} 行：每步 {picked} 个批次而不是 {asked} 个，损失不变。激活值{kept_zh}。",
            )
        )


def _ending(trainer: RunTrainer) -> EndedEvent:
    step, total = trainer.state.global_step, trainer.state.max_steps
    best_en, best_zh = trainer.keeper.verdict(trainer.state)
    if step >= total:
        return FinishedEvent(
            step=step,
            en=f"Finished: all {total} steps are done.{best_en}",
            zh=f"训练完成：共 {total} 步。{best_zh}",
        )
    if trainer.keeper.stopped_early:
        patience = trainer.settings.early_stopping_patience
        return FinishedEvent(
            step=step,
            en=f"Stopped early at step {step} of {total}: nothing better in {patience} validations.{best_en}",
            zh=f"在第 {step}/{total} 步提前停止：连续 {patience} 次验证没有改善。{best_zh}",
        )
    return StoppedEvent(
        step=step,
        en=f"Stopped as asked, after step {step} of {total}; it can be resumed.",
        zh=f"已按要求停止在第 {step}/{total} 步，可以继续训练。",
    )


def _take_over(run: Run) -> None:
    """Wait until the run names this process; whoever started it writes that, and until then nobody else writes."""
    deadline = time.monotonic() + HANDOVER_SECONDS
    while run.state().pid != os.getpid():
        if time.monotonic() > deadline:  # started by hand, or its starter died
            run.update(status=Status.STARTING)
            run.name_trainer(os.getpid())
            return
        time.sleep(0.05)


def _start_next(run: Run) -> None:
    """The line goes on without a page, too; what is wrong with it is no matter of this run."""
    try:
        advance(RunStore(run.path.parent))
    except RunError as error:
        logger.warning("The next run in line was not started: %s", error.en)


def stop_on_signals(run: Run) -> threading.Event:
    """A polite kill is a request to stop: finish the step, save, say so. Returns what is set once there was one."""
    was_signalled = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        was_signalled.set()
        run.set_stop_request(True)

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    return was_signalled


def conclude(run: Run, event: EndedEvent) -> None:
    """A run's last word."""
    run.discard_leftovers()  # on a full disk this makes room for what follows
    run.set_stop_request(False)
    logger.info("%s", event.en)
    if run.replaced is not None:
        run.append(
            MessageEvent(
                en=f"No checkpoint was saved, so the run that was here before is kept, in {run.replaced}.",
                zh=f"没有保存任何检查点，因此此处原有的训练仍保留在 {run.replaced}。",
            )
        )
    run.append(event)  # before the status: who sees that the run has ended finds its last word
    run.update(status=Status(event.kind), message_en=event.en, message_zh=event.zh)


def _lost_process(run: Run, ranks: Ranks) -> FailedEvent:
    """Another process is gone; it may have said why."""
    told = ranks.failure(LAST_WORD_SECONDS)
    if told is not None:
        return failed_with(run, told)
    return FailedEvent(
        step=_last_step(run),
        en=f"One of the {ranks.size} processes is gone without a word: it was killed, or its machine went down. "
        "Resume the run from its last checkpoint.",
        zh=f"{ranks.size} 个进程中有一个已不存在，且没有留下说明：可能被终止，或机器出现故障。"
        "请从最后一个检查点继续训练。",
    )


def failed_with(run: Run, words: dict[str, Any]) -> FailedEvent:
    """What a process said of its failure, or others of one that is lost, who do not know its last step."""
    return FailedEvent(**{"step": _last_step(run), **words})


def _unexpected(run: Run, error: Exception) -> FailedEvent:
    if is_out_of_memory(error):
        logger.error("%s", error)
        return _too_little_memory(run)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return FailedEvent(
        step=_last_step(run),
        en=f"Training failed unexpectedly ({what}). The log has the details.",
        zh=f"训练意外失败（{what}）。详情见日志。",
    )


def _too_little_memory(run: Run) -> FailedEvent:
    """Smaller passes were tried where there are any; what is left is more memory, or another run."""
    less_en, less_zh = (
        ("trains a prefix (--pre_seq_len 128)", "训练前缀（--pre_seq_len 128）")
        if run.settings().trains_all_weights
        else ("holds the model in fewer bits (--quantization_bit 4)", "用更少的位数存放模型（--quantization_bit 4）")
    )
    return FailedEvent(
        step=_last_step(run),
        en="The device has too little free memory, and nothing smaller can be computed. Close other programs on it and "
        "resume the run. Or start a new one that reads shorter rows (--max_source_length, --max_target_length) or "
        f"{less_en}.",
        zh="设备的空闲内存不足，且计算已无法再缩小。请关闭占用该设备的其他程序后继续训练；"
        f"或新建一次训练，缩短样本（--max_source_length、--max_target_length），或{less_zh}。",
    )


def _last_step(run: Run) -> int:
    checkpoints = run.checkpoints()
    return checkpoints[-1].step if checkpoints else 0
