"""The library of prefixes from a shell: ``python -m training.cli.library list``, card, push, pull, search, zip, add.

Knows flags and prints. What a card is and how a prefix travels is `training.library`'s matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatglm2.errors import ChatGLMError, RunError
from chatglm2.files import read_regular
from training.cli.flag_parser import FlagParser
from training.cli.screen import Lines, ends_with_its_reader, in_columns
from training.cli.train import USER_ERROR, system_language
from training.library.archive import pack, take_zip
from training.library.bundle import current_card
from training.library.card import LARGEST_CARD_BYTES, card_file, split_tags, write_card
from training.library.entry import Entry, describe
from training.library.hub import pull, push, search
from training.library.shelf import Shelf
from training.runs.checkpoints import read_checkpoint
from training.runs.store import DEFAULT_STORE

Say = Callable[[str, str], str]


def build_parser(language: str) -> argparse.ArgumentParser:
    """A parser whose help is in ``language``."""

    def say(en: str, zh: str) -> str:
        return zh if language == "zh" else en

    parser = FlagParser(
        prog="./launch.sh library",
        description=say(
            "Prefixes with names, cards and tags: find them, describe them, hand them on and take others' in.",
            "前缀库：为前缀添加名称、卡片和标签，查找、分享，或取用他人的前缀。",
        ),
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prefix = say(
        "a checkpoint-N directory, a run (its last one), a prefix file,\nor the name on a card",
        "checkpoint-N 目录、训练目录（取最后一个）、前缀文件，\n或卡片上的名称",
    )

    def command(name: str, en: str, zh: str) -> argparse.ArgumentParser:
        words = say(en, zh)
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=words, description=words, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
        )
        if name == "search":
            return added
        added.add_argument(
            "--output",
            metavar="DIR",
            type=Path,
            default=Path(DEFAULT_STORE),
            help=say("where runs and the library lie [output]", "训练与前缀库所在的目录 [output]"),
        )
        return added

    _add_finding(command, say)
    _add_card(command("card", "show a prefix's card, or change it", "显示或修改前缀的卡片"), prefix, say)
    _add_hub(command, prefix, say)
    zipped = command("zip", "write a prefix with its card as one zip", "把前缀和卡片打包为一个 zip")
    zipped.add_argument("prefix", metavar="PREFIX", help=prefix)
    zipped.add_argument("file", metavar="FILE.zip", type=Path, help=say("the zip to write", "要写入的 zip 文件"))
    added = command("add", "take the prefix of a zip in", "导入 zip 中的前缀")
    added.add_argument("file", metavar="FILE.zip", type=Path, help=say("as zip writes it", "由 zip 命令或网页下载得到"))
    return parser


def _add_finding(command: Callable[[str, str, str], argparse.ArgumentParser], say: Say) -> None:
    for name, en, zh in (
        ("list", "list the prefixes of this machine", "列出本机的前缀"),
        ("search", "search Hugging Face for prefixes", "在 Hugging Face 上搜索前缀"),
    ):
        found = command(name, en, zh)
        found.add_argument("words", nargs="*", metavar="WORD", help=say("all of these occur", "须包含所有这些词"))
        found.add_argument(
            "--tag",
            action="append",
            default=[],
            metavar="TAG",
            help=say("has this tag; repeatable", "带此标签，可重复"),
        )


def _add_card(parser: argparse.ArgumentParser, prefix: str, say: Say) -> None:
    parser.add_argument("prefix", metavar="PREFIX", help=prefix)
    parser.add_argument("--name", help=say("what to call it", "名称"))
    parser.add_argument(
        "--tags", metavar="A,B", help=say("its tags, separated by commas; '' for none", "标签，用逗号分隔；'' 表示清空")
    )
    parser.add_argument("--license", help=say("such as mit, or in your own words", "许可，例如 mit，或自行填写"))
    notes = parser.add_mutually_exclusive_group()
    notes.add_argument("--notes", help=say("what others should know (Markdown)", "说明（Markdown）"))
    notes.add_argument("--notes_file", type=Path, metavar="FILE", help=say("the same, from a file", "从文件读取说明"))


def _add_hub(command: Callable[[str, str, str], argparse.ArgumentParser], prefix: str, say: Say) -> None:
    name = say("owner/name on the hub", "模型库中的“所有者/名称”")
    push_to = command(
        "push",
        "send a prefix with its card to Hugging Face (HF_TOKEN names the account)",
        "把前缀和卡片上传到 Hugging Face（账号由 HF_TOKEN 指定）",
    )
    push_to.add_argument("prefix", metavar="PREFIX", help=prefix)
    push_to.add_argument("repository", metavar="OWNER/NAME", help=name)
    push_to.add_argument(
        "--public",
        action="store_true",
        help=say("a new repository is for everybody [for you alone]", "新建的仓库对所有人公开 [默认仅自己可见]"),
    )
    push_to.add_argument("--message", default="", help=say("what the commit says", "提交说明"))
    pull_from = command("pull", "take a prefix from a hub", "从模型库取用前缀")
    pull_from.add_argument("repository", metavar="OWNER/NAME", help=name)
    pull_from.add_argument("--revision", help=say("branch, tag or commit", "分支、标签或提交号"))
    pull_from.add_argument(
        "--hub",
        choices=("huggingface", "modelscope"),
        default="huggingface",
        help=say("which hub [huggingface]", "使用哪个模型库 [huggingface]"),
    )


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a user's mistake."""
    language = system_language()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        given = build_parser(language).parse_args(words or ["--help"])
        print(COMMANDS[given.command](given, lambda en, zh: zh if language == "zh" else en))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    return 0


def _list(given: Any, say: Say) -> str:
    entries = [entry for entry in Shelf(given.output).entries() if entry.matches(" ".join(given.words), given.tag)]
    if not entries:
        return say("No prefix is found.", "没有找到前缀。")
    head = [
        say("Name", "名称"),
        say("Tags", "标签"),
        say("Step", "步数"),
        say("Strength", "强度"),
        say("Place", "位置"),
    ]
    lines = [[entry.name, ", ".join(entry.tags), *_numbers(entry), str(entry.info.path)] for entry in entries]
    problems = [entry.problem for entry in entries if entry.problem is not None]
    return "\n".join([in_columns([head, *lines]), *(say(problem.en, problem.zh) for problem in problems)])


def _numbers(entry: Entry) -> tuple[str, str]:
    proposed = entry.info.proposed_strength
    return str(entry.info.step), "" if proposed is None else f"{proposed:g}"


def _search(given: Any, say: Say) -> str:
    found = search(" ".join(given.words), given.tag)
    if not found:
        return say("Hugging Face has no such prefix.", "Hugging Face 上没有这样的前缀。")
    head = [say("Repository", "仓库"), say("Tags", "标签"), say("Changed", "更新时间")]
    return in_columns([head, *([one.repository, ", ".join(one.tags), one.changed] for one in found)])


def _card(given: Any, say: Say) -> str:
    entry = Shelf(given.output).find(given.prefix)
    if entry.problem is not None:  # not replaced by one that has less
        raise entry.problem
    changes = {name: value for name in ("name", "license", "notes") if (value := getattr(given, name)) is not None}
    if given.tags is not None:
        changes["tags"] = split_tags(given.tags)
    if given.notes_file is not None:
        changes["notes"] = _read_notes(given.notes_file)
    card = current_card(entry.info)
    if not changes:
        return card.to_markdown().rstrip()
    write_card(entry.info.path, card.edited(**changes))
    place = card_file(entry.info.path)
    return say(f"The card is in {place}.", f"卡片已写入 {place}。")


def _read_notes(file: Path) -> str:
    try:
        return read_regular(file.expanduser(), LARGEST_CARD_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise RunError(
            f"--notes_file {file} cannot be read ({reason}). Give a text file in UTF-8.",
            f"--notes_file：无法读取 {file}（{reason}）。请指定 UTF-8 文本文件。",
        ) from error


def _push(given: Any, say: Say) -> str:
    entry = Shelf(given.output).find(given.prefix)
    address = push(entry.info, given.repository, public=given.public, message=given.message)
    return say(f"{entry.name} is on the hub: {address}", f"{entry.name} 已上传：{address}")


def _pull(given: Any, say: Say) -> str:
    lines = Lines(sys.stderr)

    def show(done: int, total: int) -> None:
        if lines.change_in_place and total:
            lines.change(f"{done / total:4.0%}")

    place = pull(given.repository, Shelf(given.output), hub=given.hub, revision=given.revision, progress=show)
    lines.close()
    return _taken(place, say)


def _zip(given: Any, say: Say) -> str:
    entry = Shelf(given.output).find(given.prefix)
    pack(entry.info, given.file.expanduser().resolve())
    return say(f"{entry.name} is in {given.file}.", f"{entry.name} 已写入 {given.file}。")


def _add(given: Any, say: Say) -> str:
    return _taken(take_zip(Shelf(given.output), given.file.expanduser()), say)


def _taken(place: Path, say: Say) -> str:
    """What came, and how it is used."""
    entry = describe(read_checkpoint(place))
    base = (entry.card.facts.base_model if entry.card else "") or entry.info.base_model
    trained_on = say(f" Its base model is {base}.", f"基座模型为 {base}。") if base else ""
    problem = f"\n{say(entry.problem.en, entry.problem.zh)}" if entry.problem is not None else ""
    return (
        say(
            f"{entry.name} is in {place}, and on the page's Checkpoints tab.{trained_on}",
            f"{entry.name} 已放入 {place}，并显示在网页的“检查点”页。{trained_on}",
        )
        + problem
    )


COMMANDS: dict[str, Callable[[Any, Say], str]] = {
    "list": _list,
    "search": _search,
    "card": _card,
    "push": _push,
    "pull": _pull,
    "zip": _zip,
    "add": _add,
}


if __name__ == "__main__":
    sys.exit(main())
