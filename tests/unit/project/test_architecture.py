"""The house rules that a program can check; which room may import which is import-linter's, in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("chatglm2", "training", "app")
# Where the name that is imported is not the name that is installed.
DISTRIBUTIONS = {"modelscope_hub": "modelscope-hub", "pydantic_core": "pydantic"}
# Needed without an import of ours: accelerate by Trainer, setuptools by cpm_kernels.
NOT_IMPORTED_BY_US = {"accelerate", "setuptools"}
COMES_WITH_TORCH = {"triton", "cuda"}  # and only where torch has CUDA
MAXIMUM_LINES = 500


def python_files(repository: Path, *packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (repository / package).rglob("*.py"))


def imported_packages(path: Path) -> Iterator[str]:
    """The top-level names of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def pinned(repository: Path) -> set[str]:
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0] for line in lines if line and not line.startswith("#")}


def test_imports_are_absolute(repository: Path) -> None:
    for path in python_files(repository, *PACKAGES):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path


def test_libraries_neither_print_nor_exit(repository: Path) -> None:
    for path in python_files(repository, *PACKAGES):
        source = path.read_text(encoding="utf-8")
        ends = path in (repository / "app" / "ending.py", repository / "training" / "cli" / "screen.py")
        if 'if __name__ == "__main__"' in source or ends:  # a program, or its end
            continue
        names = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
        assert not names & {"print", "exit", "quit", "sys.exit", "os._exit"}, path


def test_files_stay_short(repository: Path) -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in python_files(repository, *PACKAGES)}
    assert not {str(path): length for path, length in lengths.items() if length > MAXIMUM_LINES}


def test_every_module_says_what_it_is(repository: Path) -> None:
    for path in python_files(repository, *PACKAGES):
        source = path.read_text(encoding="utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), path


def test_requirements_are_pinned_exactly(repository: Path) -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (repository / name).read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "-r ")) or re.fullmatch(r"[\w-]+==[\w.]+", line), (name, line)


def test_what_is_imported_is_required_and_what_is_required_is_imported(repository: Path) -> None:
    files = python_files(repository, *PACKAGES)
    imported = {name for path in files for name in imported_packages(path)}
    third_party = imported - set(sys.stdlib_module_names) - set(PACKAGES) - COMES_WITH_TORCH
    names = {DISTRIBUTIONS.get(name, name) for name in third_party}
    assert names - pinned(repository) == set()
    assert pinned(repository) - names - NOT_IMPORTED_BY_US == set()
