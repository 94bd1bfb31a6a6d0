"""What is wrong with a data file, and one without it: ``./launch.sh data FILE``.

Knows flags and prints. What is wrong is `training.data.doctor`'s matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatglm2.errors import ChatGLMError
from training.cli.flag_parser import FlagParser
from training.cli.screen import Lines, in_columns
from training.cli.train import USER_ERROR, system_language
from training.data.doctor.examination import examine
from training.data.doctor.findings import Diagnosis, Finding, Words, plural
from training.settings.train import TrainingSettings, setting_fields

SOMETHING_WRONG = 1
TAKEN = (
    *("validation_file", "model_name_or_path", "hub", "prompt_column", "response_column", "history_column"),
    *("max_source_length", "max_target_length", "source_prefix"),
)
TEXTS: dict[str, Words] = {
    "head": ("{file}: {rows}, read as {form}", "{file}：共 {rows} 行，读取为 {form}"),
    "healthy": ("Nothing is wrong.", "没有发现问题。"),
    "where": ("Where", "位置"),
    "problem": ("Problem", "问题"),
    "limits": ("These limits would cut nothing: {flags}", "不会截断任何内容的长度限制：{flags}"),
}


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""
    zh = language == "zh"
    parser = FlagParser(
        prog="./launch.sh data",
        description="检查数据文件：每个问题及其所在行。发现问题时退出码为 1。"
        if zh
        else "Tell what is wrong with a data file, by line. The exit code is 1 where something is.",
        formatter_class=argparse.RawTextHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("train_file", metavar="FILE", help="训练数据" if zh else "the data to train on")
    for item in setting_fields():
        if item.name in TAKEN:
            words = item.help[zh].replace("%", "%%")
            default = f" [{item.default}]" if item.default not in (None, "") else ""
            parser.add_argument(f"--{item.name}", help=f"{words}{default}", metavar=item.type)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 nothing is wrong, 1 something is, 2 a file cannot be read."""
    language = system_language()
    try:
        words = sys.argv[1:] if arguments is None else arguments
        given = build_parser(language).parse_args(words or ["--help"])
        found = _examine(vars(given))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    lines = Lines(sys.stdout)
    for diagnosis in found:
        for line in report(diagnosis, language):
            lines.keep(line)
    return 0 if all(diagnosis.is_healthy for diagnosis in found) else SOMETHING_WRONG


def _examine(values: dict[str, Any]) -> list[Diagnosis]:
    from chatglm2 import load_tokenizer

    for name in ("train_file", "validation_file"):
        if name in values:
            values[name] = str(Path(values[name]).expanduser())
    settings = TrainingSettings.from_dict(values)
    return examine(settings, load_tokenizer(settings.model_name_or_path, hub=settings.hub))


def report(diagnosis: Diagnosis, language: str) -> Iterator[str]:
    """The lines that tell what was found in a file."""

    def pick(words: Words) -> str:
        return words[language == "zh"]

    def say(key: str, **values: object) -> str:
        return pick(TEXTS[key]).format(**values)

    def rows(finding: Finding) -> Iterator[list[str]]:
        yield [pick(finding.where), pick(finding.says)]
        for detail in finding.details:
            yield ["", f"· {pick(detail)}"]

    rows_read = f"{diagnosis.rows:,}" if language == "zh" else plural(diagnosis.rows, "row", "rows")
    yield say("head", file=diagnosis.path.name, rows=rows_read, form=pick(diagnosis.read_as))
    if diagnosis.is_healthy:
        yield say("healthy")
    else:
        table = [[say("where"), say("problem")], *(row for finding in diagnosis.findings for row in rows(finding))]
        yield in_columns(table)
    if diagnosis.limits:
        yield say("limits", flags=" ".join(f"--{name} {value}" for name, value in diagnosis.limits.items()))
    yield ""


if __name__ == "__main__":
    sys.exit(main())
