"""Train and evaluate from a shell: ``python -m training.main --train_file data.json …``; the original's flags work.

With ``--do_predict`` or ``--do_eval`` it evaluates, in this process, what was trained or named.

Starts what the page starts, a detached process, and follows it. Ctrl-C asks it to finish its step, save and stop; a
second Ctrl-C leaves it to that and returns at once. With ``--run DIR`` this *is* the trainer's process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from chatglm2.errors import ChatGLMError, RunError
from training.cli.parser import Command, parse_command
from training.cli.screen import Lines, ends_with_its_reader, in_columns
from training.evaluation.request import EVAL, PREDICT, EvaluationRequest
from training.queue import line
from training.runs import process
from training.runs.checkpoints import DIRECTORY_NAME, checkpoint_kind, read_checkpoint
from training.runs.events import (
    PHASE_WORDS,
    CheckpointEvent,
    EndedEvent,
    EvaluationEvent,
    Event,
    FailedEvent,
    MemoryEvent,
    MessageEvent,
    PhaseEvent,
    PinnedEvent,
    RetentionEvent,
    StartedEvent,
    StepEvent,
    step_history,
)
from training.runs.layout import RUN_FILE
from training.runs.store import DEFAULT_STORE, NameTakenError, Run, RunStore, Status
from training.runs.system import require_system
from training.settings.train import TrainingSettings

POLL_SECONDS = 0.2
Start = Callable[[Run], None]
Resume = Callable[[Run, int | None, TrainingSettings], None]
# What asks for several contenders, or for more of them than their answers to rows.
COMPARING = ("checkpoints", "general", "choices", "bias")
USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done or stopped, 1 failed, 2 a user's mistake, 130 interrupted.

    A training goes on when whoever read its progress has gone.
    """
    language = system_language()
    try:
        require_system()
        command = parse_command(sys.argv[1:] if arguments is None else arguments, language)
        return _execute(command, language)
    except ChatGLMError as error:
        if _speaks():
            print(error.localized(language), file=sys.stderr)
        return USER_ERROR


def system_language() -> str:
    """``zh`` where the shell's language is Chinese, else ``en``."""
    variables = (os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((value for value in variables if value), "").lower().startswith("zh") else "en"


def _speaks() -> bool:
    """Whether this process is alone, or the one of several that torchrun started which speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _execute(command: Command, language: str) -> int:
    if command.run is not None:
        from training.worker.alone import work  # imports torch and transformers: only the trainer's process needs them

        return work(command.run)
    if command.standby is not None:
        from training.worker.standby import stand_by  # imports all that a training needs: that is what it is for

        return stand_by(command.standby)
    speaks = _speaks()
    command = with_warm_start(command)
    store = RunStore(command.output_dir.parent if command.output_dir else DEFAULT_STORE)
    if command.list_runs:
        return _list(store, language)
    if command.stop is not None and store.get(command.stop).state().status is Status.QUEUED:
        line.leave(store, command.stop)
        print(_say(language, f"{command.stop} waits no longer.", f"{command.stop} 已移出队列。"))
        return 0
    if command.stop is not None:
        process.request_stop(store.get(command.stop))
        print(_say(language, f"{command.stop} will stop after its step.", f"{command.stop} 将在当前步完成后停止。"))
        return 0
    if command.set_share is not None:
        name, share = command.set_share
        process.set_share(store.get(name), share)
        print(_say(language, f"{name} trains {share} from now on.", f"{name} 现在按 {share} 训练。"))
        return 0
    if speaks:
        for en, zh in command.notes:
            print(_say(language, en, zh), file=sys.stderr)
    if not command.train:
        return _evaluate(command, language) if speaks else 0
    evaluates = command.evaluate or command.predict
    if command.detach and evaluates:
        raise RunError(
            "--detach does not wait for the training, so nothing can be evaluated after it. Leave out --detach, or "
            "--do_eval and --do_predict.",
            "--detach 不等待训练结束，因此无法随后评估。请去掉 --detach，或去掉 --do_eval 和 --do_predict。",
        )
    if evaluates:
        from training.evaluation.plan import require_files

        require_files(evaluation_request(command))
    run, code = (_train_together if "WORLD_SIZE" in os.environ else _train)(command, store, language)
    if code or not evaluates or run is None or run.state().status != Status.FINISHED:
        return code
    return _evaluate(_with_trained(command, run), language)


def with_warm_start(command: Command) -> Command:
    """The command; a checkpoint of the original's belongs to no run that could go on, so it begins a new one."""
    place = command.resume_from
    if place is None or any((directory / RUN_FILE).is_file() for directory in (place, place.parent)):
        return command
    if checkpoint_kind(place) != "prefix":
        return command
    note = (
        f"{place} was not saved by a run here: its prefix begins a new run (a warm start, with a fresh optimizer).",
        f"{place} 不是由这里的训练保存的：将以它的前缀开始新的训练（热启动，优化器重新初始化）。",
    )
    length = {"pre_seq_len": read_checkpoint(place).pre_seq_len}
    values = {**length, **command.values, "ptuning_checkpoint": str(place.resolve())}
    return replace(command, resume_from=None, values=values, notes=(*command.notes, note))


def _train(command: Command, store: RunStore, language: str) -> tuple[Run, int]:
    """Start the trainer's process, and follow it unless it shall go on alone."""
    run, offset = _begin(command, store, process.start, process.resume)
    print(_say(language, f"Training {run.path}", f"开始训练：{run.path}"))
    return run, 0 if command.detach else follow(run, language, offset)


def _train_together(command: Command, store: RunStore, language: str) -> tuple[Run | None, int]:
    """Train in this process and those that torchrun started beside it."""
    from training.worker.together import train_together  # imports torch and transformers

    def begin() -> tuple[Run, int]:
        run, offset = _begin(command, store, process.start_here, process.resume_here)
        print(_say(language, f"Training {run.path}", f"开始训练：{run.path}"), flush=True)
        return run, offset

    settings = _resumed_settings(command) if command.resume_from else command.settings()
    device = settings.device
    return train_together(device, begin, lambda run, offset: follow(run, language, offset), os._exit)


def _evaluate(command: Command, language: str) -> int:
    if any(command.values.get(name) for name in COMPARING):
        return _compare(command, language)
    # Here, as they import torch and transformers, which starting a training does not need.
    from training.cli.terminal import ProgressLine, score_table, strength_table
    from training.evaluation.job import report_path, run_evaluations
    from training.evaluation.plan import plan_evaluations
    from training.loop.retention import read_prompts

    try:
        plans = plan_evaluations(evaluation_request(command))
        questions = read_prompts(plans[0].settings) if plans[0].settings.strengths else []
        for plan, evaluation in run_evaluations(plans, ProgressLine(sys.stderr, language), language, questions):
            print(score_table(evaluation, language), flush=True)
            if evaluation.sweep is not None:
                print(strength_table(evaluation.sweep, language), flush=True)
            report = report_path(plan)
            print(_say(language, f"Report: {report}", f"报告：{report}"))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _compare(command: Command, language: str) -> int:
    """Evaluate several checkpoints and their base together; the task against what is kept."""
    from training.cli.terminal import ProgressLine, comparison_table, sheet_lines
    from training.comparison.job import run_comparison
    from training.comparison.place import REPORT_FILE
    from training.comparison.request import plan_comparison, read_checkpoint_list
    from training.comparison.sheets import probe_sheets
    from training.evaluation.plan import EVALUATIONS

    values = dict(command.values)
    named = read_checkpoint_list(values.pop("checkpoints", None) or str(values.get("ptuning_checkpoint") or ""))
    asked = [values.pop(name, None) for name in ("general", "choices", "bias")]
    request = plan_comparison(values, named, *asked)
    watcher = ProgressLine(sys.stderr, language)
    for note in request.notes:
        watcher.say(*note)
    directory = command.output_dir or Path(DEFAULT_STORE) / EVALUATIONS / "comparison"
    try:
        comparison = run_comparison(request, directory, watcher, language)
    except KeyboardInterrupt:
        print(_say(language, "Interrupted; the same command goes on.", "已中断，再次执行相同命令可继续。"))
        return INTERRUPTED
    if comparison.rows or comparison.general:
        print(comparison_table(comparison, language), flush=True)
    for sheet in probe_sheets(comparison, language):
        print(sheet_lines(sheet), flush=True)
    report = directory / REPORT_FILE
    print(_say(language, f"Report: {report}", f"报告：{report}"))
    return 0


def evaluation_request(command: Command) -> EvaluationRequest:
    """What a command asks to be evaluated: ``--do_eval`` first, then ``--do_predict``, as in the original."""
    splits = (EVAL,) * command.evaluate + (PREDICT,) * command.predict
    return EvaluationRequest(command.values, splits, command.output_dir)


def _with_trained(command: Command, run: Run) -> Command:
    """The command, for evaluating what the run trained: its best checkpoint if it was to keep that, else its last."""
    settings = run.settings()
    last = str(run.final_checkpoint().path)
    flag = "ptuning_checkpoint" if settings.pre_seq_len else "model_name_or_path"
    return replace(command, values={**settings.to_dict(), flag: last}, output_dir=run.path)


def _begin(command: Command, store: RunStore, start: Start, resume: Resume) -> tuple[Run, int]:
    """The run, started or resumed, and where the events of its earlier part end."""
    return _resume(command, resume) if command.resume_from else (_create(command, store, start), 0)


def _create(command: Command, store: RunStore, start: Start) -> Run:
    settings = command.settings()
    for flag in ("train_file", "validation_file", "mix_file", "retention_file", "keep_file"):
        path = getattr(settings, flag)
        if path and not Path(path).is_file():
            raise RunError(
                f"--{flag}: there is no file {path}. Check the path.", f"--{flag}：文件 {path} 不存在，请检查路径。"
            )
    process.require_launcher(settings)
    process.require_idle(store)
    name = command.output_dir.name if command.output_dir else None
    try:
        run = store.create(settings, name, overwrite=command.overwrite)
    except NameTakenError as error:
        raise RunError(
            f"{error.en} Flags: --resume_from_checkpoint goes on with it, --overwrite_output_dir replaces it.",
            f"{error.zh}对应参数：--resume_from_checkpoint 继续训练，--overwrite_output_dir 覆盖。",
        ) from None
    start(run)
    return run


def _resume(command: Command, resume: Resume) -> tuple[Run, int]:
    """The resumed run, and where the events of its earlier part end."""
    run, step = _resumed_place(command)
    _, offset = run.events()
    settings = _resumed_settings(command)
    process.require_launcher(settings)
    resume(run, step, settings)
    return run, offset


def _resumed_place(command: Command) -> tuple[Run, int | None]:
    """The run to go on with, and the step of its checkpoint if the command names one."""
    assert command.resume_from is not None
    place = command.resume_from.resolve()
    named = DIRECTORY_NAME.fullmatch(place.name)
    return (Run(place.parent), int(named.group(1))) if named else (Run(place), None)


def _resumed_settings(command: Command) -> TrainingSettings:
    run, _ = _resumed_place(command)
    return TrainingSettings.from_dict({**run.settings().to_dict(), **command.values})


def _list(store: RunStore, language: str) -> int:
    rows = []
    for run in store.list():
        steps = step_history(run.events()[0])
        progress = [f"{steps[-1].step}/{steps[-1].total_steps}", f"loss {steps[-1].loss:.4f}"] if steps else []
        rows.append([run.name, str(run.state().status), *progress])
    if rows:
        Lines(sys.stdout).keep(in_columns(rows))
    for _, problem in store.broken():
        print(problem.localized(language), file=sys.stderr)
    return 0


def follow(run: Run, language: str, offset: int = 0) -> int:
    """Show a run's events from a byte offset on until it ends; returns the exit code."""
    interrupts = 0
    lines = Lines(sys.stdout)
    was_silent = False
    while True:
        try:
            state = run.state()
            active, is_silent = state.status.is_active, state.status is Status.SILENT
            if is_silent and not was_silent:
                lines.keep(_say(language, state.message_en, state.message_zh))
            was_silent = is_silent
            events, offset = run.events(offset)
            ended = _show(events, lines, language)
            if ended is not None:
                return FAILED if isinstance(ended, FailedEvent) else 0
            if not active:
                state = run.state()
                lines.close()
                print(_say(language, state.message_en, state.message_zh), file=sys.stderr)
                return FAILED
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            interrupts += 1
            lines.close()
            if interrupts > 1:
                return 0
            process.request_stop(run)
            en = "Stopping after this step. Press Ctrl-C again to return now; it will stop all the same."
            lines.keep(_say(language, en, "将在当前步完成后停止。再按一次 Ctrl-C 立即返回，训练仍会停止。"))


def _show(events: Iterable[Event], lines: Lines, language: str) -> EndedEvent | None:
    """Print events; a terminal gets one line that changes in place for the steps."""
    for event in events:
        if isinstance(event, PhaseEvent) and not lines.change_in_place:
            continue  # in a file they would be lines of no use afterwards
        show = lines.change if isinstance(event, StepEvent | PhaseEvent) else lines.keep
        show(_describe(event, language))
        if isinstance(event, EndedEvent):
            return event
    return None


def _describe(event: Event, language: str) -> str:
    match event:
        case StepEvent():
            numbers = f"loss {event.loss:.4f}  lr {event.learning_rate:.3g}  {event.tokens_per_second:,.0f} tokens/s"
            left = _say(language, f"{event.seconds_left:.0f} s left", f"剩余 {event.seconds_left:.0f} 秒")
            return f"{event.step:>6}/{event.total_steps}  {numbers}  {left}"
        case PhaseEvent():
            return _say(language, *PHASE_WORDS[event.phase])
        case StartedEvent():
            mixed = event.general_examples
            en = f"{event.examples} rows" + (f" + {mixed} general rows" if mixed else "")
            zh = f"{event.examples} 条样本" + (f" + {mixed} 条通用样本" if mixed else "")
            parameters = f"{event.trainable_parameters:,}"
            return _say(
                language,
                f"{en}, {parameters} parameters to train, on {event.device}",
                f"{zh}，可训练参数 {parameters}，{event.device}",
            )
        case CheckpointEvent():
            return _say(language, f"Saved {event.name}", f"已保存 {event.name}")
        case EvaluationEvent():
            numbers = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            return _say(language, f"Validation: {numbers}", f"验证：{numbers}")
        case RetentionEvent(step=0, prompts=count):
            en = f"The base model has answered {count} general questions, to compare with."
            return _say(language, en, f"基座模型已回答 {count} 个通用问题，供之后比较。")
        case RetentionEvent():
            same = event.unchanged, event.prompts
            return _say(
                language,
                f"General answers kept: {event.kept:.0f} % ({same[0]} of {same[1]} word for word)",
                f"通用回答保留：{event.kept:.0f}%（{same[0]}/{same[1]} 条逐字不变）",
            )
        case PinnedEvent():
            count = len(event.answers)
            return _say(language, f"Pinned prompts answered: {count}", f"已回答固定的提示：{count} 条")
        case MemoryEvent():
            taken, expected = (count / 2**30 for count in (event.reserved, sum(event.planned.values())))
            return _say(
                language,
                f"GPU memory of this run: {taken:.1f} GiB at most; {expected:.1f} GiB were expected",
                f"本次训练的显存：最多 {taken:.1f} GiB，预计 {expected:.1f} GiB",
            )
        case MessageEvent() | EndedEvent():
            return _say(language, event.en, event.zh)
    return event.kind


def _say(language: str, en: str, zh: str) -> str:
    return zh if language == "zh" else en


if __name__ == "__main__":
    sys.exit(main())
