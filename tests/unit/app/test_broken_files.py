"""Whatever lies in the runs' folder: no part of the page fails, what is good is shown, what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from past_runs import write_past_run
from shown_runs import EN, library, show_everything
from tiny_checkpoint import write_tiny_checkpoint

from app.chat.sources import NAMED_FILE
from app.views.checkpoint_table import checkpoint_table
from chatglm2.errors import ChatGLMError
from training.runs.store import RUN_FILE

STRANGE = (
    *(None, True, -1, 10**400, 1e308, float("nan"), float("inf"), -(10**18)),
    *("x", "\ud800", "<b>", "\0", "9" * 5000, [], [1], {}, {"a": 1}),
)
GARBAGE = ("", "[", "null", "3", '"x"', "\0", "[" * 100_000, "{" + '"a":1,' * 200_000 + '"b":2}')


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, ``good`` and ``bad``."""
    place = tmp_path_factory.mktemp("output")
    model = write_tiny_checkpoint(tmp_path_factory.mktemp("model"))
    for name in ("good", "bad"):
        write_past_run(place, model, name)
    return place


def variants(content: dict[str, Any]) -> Iterator[str]:
    """The content with each value replaced by each strange one."""
    for name, value in content.items():
        for strange in STRANGE:
            yield json.dumps({**content, name: strange})
        if isinstance(value, dict):
            for inner in variants(value):
                yield json.dumps({**content, name: json.loads(inner)})


@pytest.mark.parametrize("name", [RUN_FILE])
def test_wrong_values_in_a_runs_files_fail_no_tab(output: Path, name: str) -> None:
    file = output / "bad" / name
    before = file.read_bytes()
    contents = [json.loads(line) for line in before.splitlines()] if name.endswith("jsonl") else [json.loads(before)]
    kinds = {content.get("kind"): content for content in contents}
    if name == RUN_FILE:
        kept = ("pre_seq_len", "share", "load_best_model_at_end", "train_file")
        contents[0]["settings"] = {key: contents[0]["settings"][key] for key in kept}
    try:
        for content in kinds.values():
            for text in (*variants(content), *GARBAGE):
                file.write_text(text + "\n", encoding="utf-8")
                show_everything(output)
    finally:
        file.write_bytes(before)


def test_a_broken_run_is_named_with_its_reason_and_can_be_removed(tmp_path: Path, output: Path) -> None:
    run = tmp_path / "hurt"
    run.mkdir()
    (run / RUN_FILE).write_text('{"settings": 3, "state": {}}', encoding="utf-8")
    sources = library(tmp_path)
    (broken,) = sources.broken()
    assert broken.name == "hurt" and "settings" in broken.reason.en
    shown = checkpoint_table(sources.sources(), {}, EN, sources.broken())
    assert "Cannot be used (1)" in shown and f'data-key="{run}"' in shown
    sources.delete(broken.key)
    assert not run.exists() and sources.broken() == []


def test_a_named_path_that_is_gone_or_outside_is_named_and_can_be_forgotten(tmp_path: Path) -> None:
    named = ["/elsewhere/checkpoint-3", str(tmp_path / "gone"), 7, None]
    (tmp_path / NAMED_FILE).write_text(json.dumps(named), encoding="utf-8")
    sources = library(tmp_path)
    assert [item.key for item in sources.broken()] == named[:2]
    sources.delete("/elsewhere/checkpoint-3")
    sources.delete(str(tmp_path / "gone"))
    assert sources.broken() == []
    assert json.loads((tmp_path / NAMED_FILE).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("content", [*GARBAGE, *map(json.dumps, STRANGE), '["\\u0000"]', f'["{"x" * 5000}"]'])
def test_a_list_of_named_paths_may_hold_anything(tmp_path: Path, content: str) -> None:
    (tmp_path / NAMED_FILE).write_text(content, encoding="utf-8")
    sources = library(tmp_path)
    assert [source.key for source in sources.sources()] == ["base"]
    sources.broken()


def test_nothing_that_is_not_listed_can_be_deleted(output: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for key in (str(tmp_path), str(output), str(output / "good"), "..", "", "/"):
        with pytest.raises(ChatGLMError):
            library(output).delete(key)
    assert (tmp_path / "file").exists() and (output / "good").exists()
