"""Take a prefix or the base model to other programs: ``python -m training.cli.export CHECKPOINT --format original …``.

Knows flags and prints. What is exported and how it comes to its place is `training.runs.export`'s matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from chatglm2.checkpoints.loading import LoadProgress
from chatglm2.errors import ChatGLMError
from training.cli.flag_parser import FlagParser
from training.cli.screen import Lines, ends_with_its_reader
from training.cli.train import USER_ERROR, system_language
from training.runs.export import FORMATS, ExportRequest, export


def _show_on(lines: Lines) -> Callable[[LoadProgress], None]:
    """Shows how much is done, where somebody watches."""

    def show(progress: LoadProgress) -> None:
        if lines.change_in_place:
            lines.change(f"{progress.loaded_bytes / progress.total_bytes:4.0%}")
            if progress.loaded_bytes == progress.total_bytes:
                lines.close()

    return show


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""

    def say(en: str, zh: str) -> str:
        return zh if language == "zh" else en

    parser = FlagParser(
        prog="python -m training.cli.export",
        description=say(
            "Export a prefix for the original's scripts or for peft, or the base model for GlmForCausalLM.",
            "把前缀导出给原版脚本或 peft 使用，或把基座模型导出为 transformers 的 GlmForCausalLM。",
        ),
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="CHECKPOINT",
        help=say(
            "a checkpoint-N directory, a run (its last checkpoint), a prefix file or a peft adapter;\n"
            "with --format glm, the base model: a directory or hub id",
            "checkpoint-N 目录、训练目录（取最后一个检查点）、前缀文件或 peft 适配器；\n"
            "--format glm 时为基座模型：目录或模型编号",
        ),
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="original",
        help=say(
            "original: pytorch_model.bin and config.json, for the original's --ptuning_checkpoint [default]\n"
            "peft: a prefix-tuning adapter over the model that --format glm writes\n"
            "glm: the base model for transformers' GlmForCausalLM",
            "original：pytorch_model.bin 和 config.json，用于原版脚本的 --ptuning_checkpoint [默认]\n"
            "peft：prefix-tuning 适配器，配合 --format glm 导出的模型使用\n"
            "glm：供 transformers 的 GlmForCausalLM 使用的基座模型",
        ),
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help=say("a new directory", "新建的输出目录")
    )
    parser.add_argument(
        "--beside",
        metavar="CHECKPOINT",
        nargs="+",
        default=[],
        help=say(
            "put the prefixes of these behind it: one longer prefix that does both tasks",
            "把这些检查点的前缀接在后面：合成一个更长的前缀，兼顾多项任务",
        ),
    )
    parser.add_argument(
        "--average",
        metavar="CHECKPOINT",
        nargs="+",
        default=[],
        help=say(
            "average with the prefixes of these, which began at the same point (same seed and length)",
            "与这些检查点的前缀取平均；它们应从同一起点训练（种子和长度相同）",
        ),
    )
    parser.add_argument(
        "--base_model",
        "--base-model",
        metavar="MODEL",
        help=say(
            "directory or hub id of the base model [what the checkpoint names]",
            "基座模型的目录或模型编号 [默认：检查点中记录的]",
        ),
    )
    parser.add_argument(
        "--hub",
        choices=("huggingface", "modelscope"),
        default="huggingface",
        help=say("where a hub id is looked for [huggingface]", "从哪个模型库查找模型编号 [huggingface]"),
    )
    return parser


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a user's mistake."""
    language = system_language()
    try:
        given = build_parser(language).parse_args(arguments)
        request = ExportRequest(
            given.source,
            given.format,
            given.output,
            given.base_model,
            given.hub,
            tuple(given.beside),
            tuple(given.average),
        )
        source = export(request, _show_on(Lines(sys.stderr)))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    en = f"Exported {source} to {given.output} ({given.format})"
    print(f"已将 {source} 导出到 {given.output}（{given.format}）" if language == "zh" else en)
    return 0


if __name__ == "__main__":
    sys.exit(main())
