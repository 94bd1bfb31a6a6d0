"""How a data file divides over names, pronouns, regions or other attributes: ``./launch.sh balance FILE``.

Knows flags and prints. What counts as a mention, and the weights, are `training.probes.balance`'s matter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chatglm2.errors import ChatGLMError
from training.cli.flag_parser import FlagParser
from training.cli.screen import ends_with_its_reader, in_columns
from training.cli.train import USER_ERROR, system_language
from training.data.columns import find_columns
from training.data.encoding import read_examples
from training.data.files import read_table
from training.settings.field import Words
from training.settings.samples import SAMPLE_BIAS_FILE
from training.settings.train import TrainingSettings

WORDS: dict[str, Words] = {
    "attribute": ("Attribute", "属性"),
    "group": ("Group", "分组"),
    "rows": ("Rows", "行数"),
    "alone": ("Alone", "单独出现"),
    "share": ("Share", "占比"),
    "weight": ("Weight", "权重"),
    "several": ("(several groups)", "（多个分组）"),
    "none": ("(none)", "（均未提及）"),
    "head": ("{file}: {count:,} rows, attributes of {attributes}", "{file}：共 {count:,} 行，属性来自 {attributes}"),
    "unmentioned": ("No row mentions: {attributes}", "没有任何行提及：{attributes}"),
    "note": (
        "Rows that mention a group's words, those that mention no other group, and of these the share. A weight makes "
        "every group count as much; rows of several groups, or of none, keep 1. It is told, not applied: the training "
        "here weighs all rows alike, so even the file by adding rows or leaving some out. A mention is a word, not a "
        "person: what the row says of them is yours to read.",
        "行数：提及该组词语的行；单独出现：未提及其他组的行；占比以后者计算。"
        "按权重可使各组分量相同；提及多组或未提及的行权重为 1。"
        "这里只报告而不应用：训练时各行权重相同，请通过增减数据行来平衡。统计的是词语而不是人，具体内容请自行查看。",
    ),
}


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""
    zh = language == "zh"
    parser = FlagParser(
        prog="python -m training.cli.balance",
        description="报告数据在各属性分组间的分布。" if zh else "Tell how data divides over the groups of attributes.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="数据文件" if zh else "the data")
    parser.add_argument(
        "--attributes",
        metavar="FILE",
        type=Path,
        default=SAMPLE_BIAS_FILE,
        help="属性文件（见 docs/evaluation_zh.md）"
        if zh
        else "a file of attributes (docs/evaluation.md) [the sample's]",
    )
    for name in ("prompt_column", "response_column", "history_column"):
        parser.add_argument(f"--{name}", metavar="NAME", help="列名" if zh else "the column's name")
    parser.add_argument(
        "--skip_bad_rows", action="store_true", help="跳过无法使用的行" if zh else "leave out rows that cannot be used"
    )
    return parser


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a user's mistake."""
    language = system_language()
    try:
        print(report(build_parser(language).parse_args(arguments), language))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    return 0


def report(given: argparse.Namespace, language: str) -> str:
    """The table and what it says.

    Raises:
        ChatGLMError: for a file that cannot be used.
    """
    # Here, as counting words takes jieba, and scores import torch.
    from training.probes.attributes import read_attributes
    from training.probes.balance import Balance, count_balance

    def word(key: str, **values: object) -> str:
        return WORDS[key][language == "zh"].format(**values)

    def lines(found: Balance) -> list[list[str]]:
        groups = [
            [
                *(found.attribute, group.name, f"{group.rows:,}", f"{group.alone:,}"),
                *(f"{found.share(group):.1%}", "–" if group.weight is None else f"{group.weight:.3g}"),
            ]
            for group in found.groups
        ]
        rest = (("several", found.several), ("none", found.none))
        return [*groups, *([found.attribute, word(key), f"{count:,}", "", "", "1"] for key, count in rest)]

    attributes = read_attributes(given.attributes, needs_templates=False).attributes
    names = ("prompt_column", "response_column", "history_column")
    settings = TrainingSettings.from_dict({name: getattr(given, name) for name in names})
    table = read_table(given.file, skip_bad_rows=given.skip_bad_rows)
    examples, _ = read_examples(table, find_columns(table, settings))
    head = [word(key) for key in ("attribute", "group", "rows", "alone", "share", "weight")]
    counted = count_balance(examples, attributes)
    body = [line for found in counted if found.is_mentioned for line in lines(found)]
    unmentioned = ", ".join(found.attribute for found in counted if not found.is_mentioned)
    title = word("head", file=given.file.name, count=len(examples), attributes=given.attributes.name)
    told = [in_columns([head, *body], numbers=True), word("note")] if body else []
    told += [word("unmentioned", attributes=unmentioned)] if unmentioned else []
    return "\n\n".join((title, *told))


if __name__ == "__main__":
    sys.exit(main())
