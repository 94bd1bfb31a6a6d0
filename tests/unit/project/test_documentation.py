"""What the guide pages say is so: links lead somewhere, flags exist, figures are those that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from app.__main__ import build_parser
from benchmarks import tables
from training.cli.balance import build_parser as build_balance_parser
from training.cli.data import build_parser as build_data_parser
from training.cli.export import build_parser as build_export_parser
from training.cli.library import build_parser as build_library_parser
from training.cli.parser import parse_command

PAGES = (
    "README.md",
    "README_zh.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/training.md",
    "docs/training_zh.md",
    "docs/scripts.md",
    "docs/scripts_zh.md",
    "docs/strength.md",
    "docs/strength_zh.md",
    "docs/original.md",
    "docs/original_zh.md",
    "docs/evaluation.md",
    "docs/evaluation_zh.md",
    "docs/compare.md",
    "docs/compare_zh.md",
    "docs/library.md",
    "docs/library_zh.md",
    "docs/inputs.md",
    "docs/inputs_zh.md",
)
GUIDES = tuple(
    name
    for name in PAGES
    if name.startswith(("docs/training", "docs/scripts", "docs/strength", "docs/evaluation", "docs/library"))
)
READMES = ("README.md", "README_zh.md")


@pytest.mark.parametrize("name", PAGES)
def test_links_to_files_lead_somewhere(repository: Path, name: str) -> None:
    page = repository / name
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every ``./launch.sh`` command in the page's code blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s#.*", "", line).split()[1:] for line in lines if line.startswith("./launch.sh")]


@pytest.mark.parametrize("name", (*READMES, *GUIDES))
def test_commands_are_understood(repository: Path, name: str) -> None:
    for arguments in commands(repository / name):
        if arguments[:1] == ["train"]:
            assert not parse_command(arguments[1:]).notes
        elif arguments[:1] == ["evaluate"]:
            assert not parse_command(["--do_predict", *arguments[1:]]).notes
        elif arguments[:1] == ["data"]:
            build_data_parser("en").parse_args(arguments[1:])
        elif arguments[:1] == ["balance"]:
            build_balance_parser("en").parse_args(arguments[1:])
        elif arguments[:1] == ["export"]:
            build_export_parser("en").parse_args(arguments[1:])
        elif arguments[:1] == ["library"]:
            build_library_parser("en").parse_args(arguments[1:])
        elif arguments[:1] != ["test"]:
            build_parser().parse_args(arguments)


@pytest.mark.parametrize("name", ["docs/original.md", "docs/original_zh.md"])
def test_what_holds_a_promise_to_the_originals_users_is_there(repository: Path, name: str) -> None:
    named = re.findall(r"`(?:tests/\S*/)?(test_\w+\.py)`", (repository / name).read_text(encoding="utf-8"))
    there = {file.name for file in (repository / "tests").rglob("test_*.py")}
    assert len(named) > 20 and set(named) <= there


@pytest.mark.parametrize(("language", "name"), [("en", "README.md"), ("zh", "README_zh.md")])
def test_the_tables_of_speed_are_what_was_measured(repository: Path, language: str, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    for mark, table in tables.tables(tables.read_records(*tables.MEASURED), language).items():
        assert tables.put_between_marks(text, mark, table) == text


@pytest.mark.parametrize("name", READMES)
def test_the_demo_models_figures_are_those_of_its_report(repository: Path, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8").partition("<!-- answering -->")[0]
    report = json.loads((repository / "assets" / "demo-model" / "report.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+)(?: %)? \| ([\d.]+)(?: %)? \|$", text, flags=re.MULTILINE)
    expected = [
        (report["base"][key], report["tuned"][key]) for key in ("plain_lists", "attributes_used", "rouge-l", "bleu-4")
    ]
    assert [(float(base), float(tuned)) for base, tuned in rows] == expected
