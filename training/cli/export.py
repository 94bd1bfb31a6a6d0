"""Take a prefix or the base model to other programs: ``python -m training.cli.export CHECKPOINT --format original …``.

Knows where a checkpoint's base model is, and how an export comes to its place whole. What the files hold is
`chatglm2.checkpoints.export`'s business.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError

from chatglm2.checkpoints import export as formats
from chatglm2.checkpoints.hub import CHECKPOINT_FILES, Hub, resolve_model_directory
from chatglm2.checkpoints.loading import LoadProgress
from chatglm2.errors import ChatGLMError, CheckpointError, RunError
from training.cli.train import USER_ERROR, system_language
from training.runs.checkpoints import CheckpointInfo, find_checkpoints
from training.runs.storage import explaining_storage_errors, publish_directory

FORMATS = ("original", "peft", "glm")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, as what, and where to.

    Attributes:
        source: a checkpoint, a run (its last checkpoint is meant) or a peft adapter; for ``glm`` the base model.
        format: one of `FORMATS`.
        output: a directory that is not there yet, or is empty.
        base_model: directory or hub id of the base; if None, what the checkpoint names.
        hub: where a hub id is looked for.
        fallback_base: the base if ``base_model`` is None and what the checkpoint names, if anything, is not found.
    """

    source: str
    format: str
    output: Path
    base_model: str | None = None
    hub: Hub = "huggingface"
    fallback_base: str | None = None


def export(request: ExportRequest) -> Path:
    """Write the export, which appears complete or not at all; returns what was exported.

    Raises:
        ChatGLMError: if the source cannot be read, does not fit its base, or the output cannot be written.
    """
    output = request.output.expanduser().resolve()
    staged = output.with_name(f".{output.name}.partial")
    with explaining_storage_errors(output):
        _require_empty(output)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            source = _write(request, staged)
            publish_directory(staged, output)
        except (SafetensorError, RuntimeError) as error:  # how torch and safetensors report a full disk
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(
                f"{output} could not be written ({reason}). Check the free space.",
                f"无法写入 {output}（{reason}）。请检查剩余空间。",
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return source


def _write(request: ExportRequest, staged: Path) -> Path:
    if request.format == "glm":
        source = _resolve(request.source, request.hub)
        formats.export_glm(source, staged, _show_progress)
        return source
    place = Path(request.source).expanduser()
    info = None if (place / formats.PEFT_CONFIG_FILE).is_file() else find_checkpoints(place)[-1]
    source = place if info is None else info.path
    base = _find_base(request, info)
    if request.format == "peft":
        formats.export_peft(source, base, staged)
    else:
        bits = info.settings.get("quantization_bit") if info is not None else None
        formats.export_original(source, base, staged, quantization_bit=int(bits or 0))
    return source


def _find_base(request: ExportRequest, info: CheckpointInfo | None) -> Path:
    """The directory with the base's config.json: as asked for, the prefix's own, or what the checkpoint names."""
    if request.base_model is not None:
        return _resolve(request.base_model, request.hub, "config.json")
    if info is not None:
        directory = info.path if info.path.is_dir() else info.path.parent
        if (directory / "config.json").is_file():
            return directory
    named = info.base_model if info is not None else ""
    try:
        return _resolve(named, request.hub, "config.json")
    except CheckpointError as error:
        if request.fallback_base is not None:
            return _resolve(request.fallback_base, request.hub, "config.json")
        raise RunError(
            f"The base model of {request.source} is needed, and "
            + (f"{named}, which the checkpoint names, was not found" if named else "its files do not name it")
            + ". Name its directory or hub id with --base-model.",
            f"导出 {request.source} 需要它的基座模型，但"
            + (f"没有找到检查点中记录的 {named}" if named else "文件中没有记录")
            + "。请用 --base-model 指定其目录或模型编号。",
        ) from error


def _resolve(path_or_id: str, hub: Hub, *files: str) -> Path:
    return resolve_model_directory(path_or_id, hub=hub, files=files or CHECKPOINT_FILES)


def _require_empty(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise RunError(
            f"--output {output} is there already, and is not replaced. Name a new directory.",
            f"--output {output} 已存在，不会覆盖它。请指定新目录。",
        )


def _show_progress(progress: LoadProgress) -> None:
    if sys.stderr.isatty():
        end = "\n" if progress.loaded_bytes == progress.total_bytes else ""
        print(f"\r{progress.loaded_bytes / progress.total_bytes:4.0%}", end=end, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RunError(
            f"{message[:1].upper()}{message[1:]}. Run with --help for all flags.",
            f"命令行参数有误：{message}。用 --help 查看全部参数。",
        )


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""

    def say(en: str, zh: str) -> str:
        return zh if language == "zh" else en

    parser = _Parser(
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
        "--base-model",
        "--base_model",
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a user's mistake."""
    language = system_language()
    try:
        given = build_parser(language).parse_args(arguments)
        source = export(ExportRequest(given.source, given.format, given.output, given.base_model, given.hub))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    en = f"Exported {source} to {given.output} ({given.format})"
    print(f"已将 {source} 导出到 {given.output}（{given.format}）" if language == "zh" else en)
    return 0


if __name__ == "__main__":
    sys.exit(main())
