"""The command line's flags: every training setting, the original's flags and ours for runs.

Knows how words become `TrainingSettings` and a `Command`; does nothing with them.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from chatglm2.errors import RunError
from training.cli.flag_parser import FlagParser
from training.settings import transformers_flags
from training.settings.field import is_true
from training.settings.train import TrainingSettings, setting_fields

# Flags of the original and of its transformers that change nothing here: (takes a value, why in en, why in zh).
_NEVER_NEEDED = ("not needed here", "此处不需要")
_ALWAYS_GENERATED = ("answers are always generated", "总是生成回答")
_COUNTED_WITH_PROMPT = (
    "answers end at max_source_length + max_target_length",
    "回答长度由 max_source_length + max_target_length 限定",
)
UNUSED_FLAGS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("overwrite_cache", "cache_dir", "use_auth_token", "config_name", "tokenizer_name", "use_fast_tokenizer"),
            *("model_revision", "resize_position_embeddings", "lang", "dataset_name", "dataset_config_name"),
            *("pad_to_max_length", "forced_bos_token"),
        ),
        _NEVER_NEEDED,
    ),
    "predict_with_generate": _ALWAYS_GENERATED,
    "generation_max_length": _COUNTED_WITH_PROMPT,
    **transformers_flags.WITHOUT_EFFECT,
}
# Flags that say the same in other words.
TRANSLATED_FLAGS: dict[str, dict[str, Any]] = {
    "fp16": {"dtype": "float16"},
    "bf16": {"dtype": "bfloat16"},
    "no_cuda": {"device": "cpu"},
    "use_cpu": {"device": "cpu"},
    "fp16_full_eval": {"dtype": "float16"},
    "bf16_full_eval": {"dtype": "bfloat16"},
}
RENAMED_FLAGS = {"generation_num_beams": "num_beams", **transformers_flags.RENAMED_FLAGS}
# What a flag means that is given without a value, or with what transformers takes for true and false.
SWITCHED_FLAGS = {"gradient_checkpointing": ("on", "off"), "fsdp": ("full_shard", None)}
PATH_SETTINGS = (
    *("model_name_or_path", "ptuning_checkpoint", "deepspeed"),
    *("train_file", "validation_file", "test_file", "mix_file", "retention_file", "keep_file"),
    *("general", "choices", "bias"),
)


ALL_WEIGHTS = (
    "No --pre_seq_len: all weights are trained, as in the original. To train a prefix instead, add --pre_seq_len 128.",
    "未指定 --pre_seq_len：与原版相同，将训练全部权重。若要改为训练前缀，请加上 --pre_seq_len 128。",
)


AS_THE_ORIGINAL = (
    "As in the original, the prefix starts at random and nothing else is kept. To forget less, add --prefix_init text "
    "--keep 0.5.",
    "与原版相同：前缀从随机值开始，不保留其他能力。若要减少遗忘，请加上 --prefix_init text --keep 0.5。",
)
# A command line of the original's kind names none of these, and means what the original does.
THE_ORIGINALS_START = {"prefix_init": "random", "keep": "0"}


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Attributes:
        values: the settings that were given, by name; the rest keep their defaults.
        train, evaluate, predict: the original's ``--do_train``, ``--do_eval`` and ``--do_predict``; without any of
            them, training.
        notes: what was accepted but changes nothing, in English and Chinese.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    train: bool = True
    evaluate: bool = False
    predict: bool = False
    output_dir: Path | None = None
    overwrite: bool = False
    resume_from: Path | None = None
    detach: bool = False
    run: Path | None = None
    standby: int | None = None
    list_runs: bool = False
    stop: str | None = None
    set_share: tuple[str, str] | None = None
    notes: tuple[tuple[str, str], ...] = ()

    def settings(self) -> TrainingSettings:
        """Settings with defaults filled in."""
        return TrainingSettings.from_dict(self.values)


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""
    zh = language == "zh"
    parser = FlagParser(
        prog="python -m training.main",
        usage="python -m training.main [--FLAG VALUE …]  |  python -m training.main FLAGS.json",
        description="用 P-Tuning v2 微调 ChatGLM2。" if zh else "P-Tune ChatGLM2 (P-Tuning v2).",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    runs = parser.add_argument_group("训练任务" if zh else "runs")
    for name, (en, chinese), options in _RUN_FLAGS:
        runs.add_argument(f"--{name}", help=chinese if zh else en, **options)
    for group, title in (
        ("basic", "常用设置" if zh else "basic settings"),
        ("advanced", "高级设置" if zh else "advanced"),
        ("evaluation", "评估" if zh else "evaluation"),
        ("distributed", "多 GPU 与 transformers" if zh else "several GPUs, and transformers"),
    ):
        section = parser.add_argument_group(title)
        for item in setting_fields():
            if item.group == group:
                words = (item.help[1] if zh else item.help[0]).replace("%", "%%")
                default = f" [{item.default}]" if item.default not in (None, "") else ""
                switch: dict[str, Any] = {"nargs": "?", "const": True} if item.type == "bool" else {}
                if item.name in SWITCHED_FLAGS:
                    switch = {"nargs": "?", "const": "true"}
                shown = " | ".join(map(str, item.choices)) or item.type
                section.add_argument(item.flag, help=f"{words}{default}", metavar=shown, **switch)
    return parser


_RUN_FLAGS: tuple[tuple[str, tuple[str, str], dict[str, Any]], ...] = (
    (
        "do_train",
        ("Train; what is done if none of these three is given.", "训练；三者都未给出时的默认操作。"),
        {"nargs": "?", "const": True, "metavar": "bool"},
    ),
    (
        "do_eval",
        ("Measure on --validation_file.", "在 --validation_file 上评估。"),
        {"nargs": "?", "const": True, "metavar": "bool"},
    ),
    (
        "do_predict",
        ("Answer the rows of --test_file, and score the answers.", "回答 --test_file 中的每一行并评分。"),
        {"nargs": "?", "const": True, "metavar": "bool"},
    ),
    (
        "output_dir",
        ("Directory of the run. [a new one in output/]", "训练目录。[默认在 output/ 下新建]"),
        {"metavar": "DIR", "type": Path},
    ),
    (
        "overwrite_output_dir",
        ("Replace the run in that directory.", "覆盖该目录中的训练。"),
        {"nargs": "?", "const": True, "metavar": "bool"},
    ),
    (
        "resume_from_checkpoint",
        (
            "Go on with a run that ended: its directory or a checkpoint-N in it.",
            "继续已结束的训练：训练目录或其中的 checkpoint-N。",
        ),
        {"metavar": "DIR"},
    ),
    ("detach", ("Start, and do not follow.", "启动后不跟踪进度。"), {"action": "store_true"}),
    ("list", ("Show the runs beside --output_dir.", "列出 --output_dir 同级的训练。"), {"action": "store_true"}),
    ("stop", ("Ask a run to finish its step, save and stop.", "请求训练完成当前步、保存并停止。"), {"metavar": "NAME"}),
    (
        "set_share",
        (
            "Change who goes first on the device, chat-first, even or training-first, while a run trains.",
            "训练进行中更改谁优先使用设备：chat-first、even 或 training-first。",
        ),
        {"metavar": ("NAME", "SHARE"), "nargs": 2},
    ),
    ("run", (argparse.SUPPRESS, argparse.SUPPRESS), {"metavar": "DIR", "type": Path}),
    ("standby", (argparse.SUPPRESS, argparse.SUPPRESS), {"metavar": "DESCRIPTOR", "type": int}),
)


_SWITCHES = [name for name, _, options in _RUN_FLAGS if options.get("action") == "store_true"]


def parse_command(arguments: Sequence[str], language: str = "en") -> Command:
    """The command that ``arguments`` spell; a single ``.json`` argument is read as a file of flags.

    Raises:
        RunError: for a flag that does not exist, a value that does not fit, or a file that cannot be read.
    """
    words = _expand_json(list(arguments))
    notes, words, values = _sort_out(words)
    known, unknown = build_parser(language).parse_known_args(words)
    if unknown:
        raise _unknown_flag(unknown[0])
    given = vars(known)
    settings = {item.name for item in setting_fields()}
    values |= {name: value for name, value in given.items() if name in settings}
    if "metric_for_best_model" in values:  # transformers takes eval_loss for loss
        values["metric_for_best_model"] = str(values["metric_for_best_model"]).removeprefix("eval_")
    if "num_train_epochs" in values and "max_steps" not in values:
        values["max_steps"] = -1
    for name, (on, off) in SWITCHED_FLAGS.items():
        if str(values.get(name)).lower() in ("true", "false"):
            values[name] = on if is_true(values[name]) else off
    for name in PATH_SETTINGS:
        if values.get(name) and Path(values[name]).expanduser().exists():
            values[name] = str(Path(values[name]).expanduser().resolve())
    resume = given.get("resume_from_checkpoint")
    chosen = {name: is_true(given.get(name, False)) for name in ("do_train", "do_eval", "do_predict")}
    if resume is None and _asks_for_all_weights(values, chosen["do_train"]):
        values["pre_seq_len"] = None
        notes.append(ALL_WEIGHTS)
    if resume is None and chosen["do_train"] and "preset" not in values and values.get("pre_seq_len") is not None:
        if not THE_ORIGINALS_START.keys() & values.keys():
            notes.append(AS_THE_ORIGINAL)
        values = THE_ORIGINALS_START | values
    return Command(
        values=values,
        train=chosen["do_train"] or not any(chosen.values()),
        evaluate=chosen["do_eval"],
        predict=chosen["do_predict"],
        output_dir=given.get("output_dir"),
        overwrite=is_true(given.get("overwrite_output_dir", False)),
        resume_from=_resume_path(resume, given.get("output_dir")),
        detach=given.get("detach", False),
        run=given.get("run"),
        standby=given.get("standby"),
        list_runs=given.get("list", False),
        stop=given.get("stop"),
        set_share=tuple(given["set_share"]) if "set_share" in given else None,
        notes=tuple(notes),
    )


def _asks_for_all_weights(values: Mapping[str, Any], do_train: bool) -> bool:
    """Whether a command line of the original's kind names no prefix, which there means full fine-tuning."""
    if "pre_seq_len" in values or "preset" in values:
        return False
    return do_train or bool(values.get("fsdp") or values.get("deepspeed"))


def _expand_json(words: list[str]) -> list[str]:
    if len(words) != 1 or not words[0].endswith(".json"):
        return words
    file = Path(words[0])
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        assert isinstance(content, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise RunError(
            f'{file} is not a file of flags: expected JSON such as {{"max_steps": 40}} ({type(error).__name__}).',
            f'{file} 不是参数文件：应为形如 {{"max_steps": 40}} 的 JSON（{type(error).__name__}）。',
        ) from error
    expanded = []
    for name, value in content.items():
        if value is None or (value is False and name in _SWITCHES):
            continue
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        expanded += [f"--{name}"] if value is True else [f"--{name}", text]
    return expanded


_TAKEN_OUT = UNUSED_FLAGS.keys() | TRANSLATED_FLAGS.keys() | transformers_flags.PASSED_FLAGS.keys()


def _sort_out(words: list[str]) -> tuple[list[tuple[str, str]], list[str], dict[str, Any]]:
    """Spell flags with underscores and take out those that need no parser: unused ones become notes."""
    notes: list[tuple[str, str]] = []
    kept: list[str] = []
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        is_flag = word.startswith("--")
        dashed, equals, attached = word.removeprefix("--").partition("=")
        name = dashed.replace("-", "_") if is_flag else dashed
        if is_flag:
            name, attached = _as_given(RENAMED_FLAGS.get(name, name), attached)
            equals = "=" if attached else equals
        if not is_flag or name not in _TAKEN_OUT:
            kept.append(f"--{name}{equals}{attached}" if is_flag else word)
            position += 1
            continue
        position += 1
        if not attached and position < len(words) and not words[position].startswith("--"):
            attached = words[position]
            position += 1
        if name in UNUSED_FLAGS:
            en, zh = UNUSED_FLAGS[name]
            notes.append((f"--{name}: {en}", f"--{name}：{zh}"))
        elif name in TRANSLATED_FLAGS:
            values |= TRANSLATED_FLAGS[name] if is_true(attached or True) else {}
        else:
            extra |= transformers_flags.read_passed(name, attached or None)
            if attached in transformers_flags.FORMER_OPTIMIZERS:
                notes.append(transformers_flags.FORMER_OPTIMIZER_NOTE)
    if extra:
        values["extra_arguments"] = json.dumps(extra, ensure_ascii=False, sort_keys=True)
    return notes, kept, values


def _as_given(name: str, attached: str) -> tuple[str, str]:
    """A flag and its value, where transformers has another flag for one value of it: ``--no_X``, ``--adafactor``."""
    if name == "adafactor" and is_true(attached or True):
        return "optim", "adafactor"
    positive = name.removeprefix("no_")
    if name not in _TAKEN_OUT and name != positive and positive in _switches():
        return positive, str(not is_true(attached or True))
    return name, attached


@cache
def _switches() -> frozenset[str]:
    """Flags that are true or false, or change nothing."""
    ours = {item.name for item in setting_fields() if item.type == "bool"}
    theirs = {name for name, kind in transformers_flags.PASSED_FLAGS.items() if kind == "bool"}
    return frozenset(ours | theirs | UNUSED_FLAGS.keys())


def _resume_path(given: str | None, output_dir: Path | None) -> Path | None:
    if given is None:
        return None
    if is_true(given):
        if output_dir is None:
            raise RunError(
                "--resume_from_checkpoint True needs --output_dir: which run shall go on?",
                "--resume_from_checkpoint True 需要 --output_dir：要继续哪个训练？",
            )
        return output_dir
    return Path(given).expanduser()


def _unknown_flag(word: str) -> RunError:
    if not word.startswith("--"):
        return RunError(
            f"Did not expect {word!r}: flags start with --. Run with --help for all flags.",
            f"多余的参数 {word!r}：参数名以 -- 开头。用 --help 查看全部参数。",
        )
    name = word.removeprefix("--").partition("=")[0]
    names = [item.name for item in setting_fields()] + [
        flag for flag, words, _ in _RUN_FLAGS if argparse.SUPPRESS not in words
    ]
    near = difflib.get_close_matches(name.replace("-", "_"), names, n=1)
    return RunError(
        f"There is no flag --{name}." + (f" Did you mean --{near[0]}?" if near else " Run with --help for all flags."),
        f"没有 --{name} 这个参数。" + (f"您是否想写 --{near[0]}？" if near else "用 --help 查看全部参数。"),
    )
