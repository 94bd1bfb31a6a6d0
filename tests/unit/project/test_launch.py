"""launch.sh on a small repository of its own: a real .venv, nothing to install, an app that tells how it was called."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import json, os, sys

if __name__ == "__main__":
    print(json.dumps({"arguments": sys.argv[1:], "directory": os.getcwd(), "python": sys.prefix}))
    sys.exit(7 if "--fail" in sys.argv else 0)
"""
NO_TORCH = "ERROR: No matching distribution found for torch==2.13.0"
OFFLINE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}


@pytest.fixture(scope="module")
def small_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launch") / "a directory with spaces"
    for module in (
        "app/__main__.py",
        "training/main.py",
        "training/cli/export.py",
        "training/cli/library.py",
        "benchmarks/speed.py",
    ):
        (root / module).parent.mkdir(parents=True, exist_ok=True)
        (root / module).write_text(APP)
    (root / "requirements.txt").write_text("# nothing\n")
    shutil.copy2(repository / "launch.sh", root)
    result = launch(root)
    assert result.returncode == 0, result.stderr
    assert "Making .venv" in result.stderr and "Installing" in result.stderr
    return root


def launch(
    root: Path, *arguments: str, script: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PIP_", "PYTHON"))}
    return subprocess.run(
        [script or root / "launch.sh", *arguments],
        cwd=cwd or root,
        env={**inherited, "LANG": "C.UTF-8", "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def commands(directory: Path, **scripts: str) -> str:
    """A PATH with the usual tools and, instead of the machine's Pythons, ``scripts``."""
    directory.mkdir()
    for tool in ("bash", "cat", "cmp", "cp", "cut", "dirname", "flock", "grep", "id", "readlink", "tail", "tee"):
        if path := shutil.which(tool):
            (directory / tool).symlink_to(path)
    for name, source in scripts.items():
        (directory / name).write_text(f"#!/bin/bash\n{source}\n")
        (directory / name).chmod(0o755)
    return str(directory)


def test_every_module_that_it_runs_is_there(repository: Path) -> None:
    modules = re.findall(r"(?:run_module|-m) ((?:app|training)[\w.]*)", (repository / "launch.sh").read_text("utf-8"))
    assert {"app", "training.main", "training.cli.export"} < set(modules)
    assert all(importlib.util.find_spec(module) for module in modules)


@pytest.mark.parametrize(
    ("command", "passed_on"),
    [
        ([], []),
        (["--model", "a b", "--port", "7861"], ["--model", "a b", "--port", "7861"]),
        (["serve", "--help"], ["--help"]),
        (["train", "--max_steps", "3"], ["--max_steps", "3"]),
        (["evaluate"], ["--do_predict"]),
        (["evaluate", "--test_file", "a b.json"], ["--do_predict", "--test_file", "a b.json"]),
        (["export", "run/checkpoint-3", "--output", "a b"], ["run/checkpoint-3", "--output", "a b"]),
        (["library", "pull", "ann/a b"], ["pull", "ann/a b"]),
        (["bench", "speed", "--repeat", "2"], ["--repeat", "2"]),
    ],
)
def test_options_reach_the_program_unchanged(small_repository: Path, command: list[str], passed_on: list[str]) -> None:
    result = launch(small_repository, *command)
    assert result.returncode == 0, result.stderr
    assert json_of(result)["arguments"] == passed_on
    assert json_of(result)["python"] == str(small_repository / ".venv")


def json_of(result: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return json.loads(result.stdout)


def test_it_runs_from_anywhere_and_through_a_symbolic_link(small_repository: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("raise SystemExit('not the app that was meant')")
    link = tmp_path / "chatglm"
    link.symlink_to(os.path.relpath(small_repository / "launch.sh", tmp_path))
    result = launch(small_repository, script=link, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json_of(result)["directory"] == str(tmp_path)


def test_the_programs_exit_code_is_passed_on(small_repository: Path) -> None:
    assert launch(small_repository, "--fail").returncode == 7


def test_a_machine_that_is_set_up_starts_offline_and_installs_nothing(small_repository: Path) -> None:
    result = launch(small_repository, **OFFLINE)
    assert result.returncode == 0 and result.stderr == ""


def test_changed_requirements_are_installed_and_an_unreachable_index_gets_a_sentence(small_repository: Path) -> None:
    requirements = small_repository / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text("no-such-package==1.0\n")
    try:
        for _ in range(2):  # a failed installation is not taken for a finished one
            result = launch(small_repository, **OFFLINE)
            assert result.returncode == 1 and result.stdout == ""
            assert "Error: The package index cannot be reached" in result.stderr
        result = launch(small_repository, **OFFLINE, PIP_NO_INDEX="1")
        assert "Error: pip could not install" in result.stderr and "install.log" in result.stderr
    finally:
        requirements.write_text(before)


@pytest.mark.parametrize(
    ("name", "scripts", "sentence"),
    [
        ("none", {}, "no python3 was found"),
        ("old", {"python3": "[ $1 = --version ] && echo Python 3.8.18; exit 1"}, "this machine has Python 3.8.18"),
        ("no-venv", {"python3": "[[ $2 == *ensurepip* ]] && exit 1; echo Python 3.12.1"}, "has no venv module"),
        ("full", {"python3": "[[ $2 == venv ]] && echo No space left on device && exit 1; echo Python 3.12.1"}, "disk"),
        ("intel-mac", {"python3": f"[[ $2 == venv ]] && echo {NO_TORCH} && exit 1; echo Python 3.12.1"}, "no torch"),
    ],
)
def test_what_is_missing_on_a_fresh_machine_is_said(
    repository: Path, tmp_path: Path, name: str, scripts: dict[str, str], sentence: str
) -> None:
    (tmp_path / "requirements.txt").write_text("")
    shutil.copy2(repository / "launch.sh", tmp_path)
    path = commands(tmp_path / "bin", **scripts)
    result = launch(tmp_path, PATH=path, PYTHON="")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ") and sentence in result.stderr
    assert "错误：" in launch(tmp_path, PATH=path, PYTHON="", LANG="zh_CN.UTF-8").stderr


def test_help_needs_no_setting_up(repository: Path, tmp_path: Path) -> None:
    shutil.copy2(repository / "launch.sh", tmp_path)
    for flag in ("help", "-h", "--help"):
        assert "Usage: ./launch.sh" in launch(tmp_path, flag).stdout
    assert "用法：./launch.sh" in launch(tmp_path, "help", LANG="zh_CN.UTF-8").stdout
    assert not (tmp_path / ".venv").exists()


def test_benchmarks_are_listed_where_none_is_named(small_repository: Path) -> None:
    (small_repository / "benchmarks" / "common.py").write_text("# not a program\n")
    for command in (["bench"], ["bench", "common"]):
        result = launch(small_repository, *command)
        assert result.stderr.splitlines()[:2] == ["Benchmarks:", "  speed"]
        assert result.returncode == (len(command) > 1)


def test_an_unknown_command_is_refused(small_repository: Path) -> None:
    result = launch(small_repository, "trian")
    assert result.returncode == 1 and "no command 'trian'" in result.stderr
