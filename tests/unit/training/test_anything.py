"""Whatever lies in a file or stands on a command line: it is read, or refused in a sentence, and nothing else happens.

Each property is tried on values that hypothesis invents, the same ones every time.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventions import GARBAGE, JSON, NUMBERS, in_a_sentence, placed, tried
from past_runs import write_past_run
from small_runs import step_event

from app.text.languages import Speech
from app.training.run_view import RunFeed, read_view
from app.views.run_figures import loss_html, retention_html, run_html
from training.cli.parser import parse_command
from training.data.columns import find_columns
from training.data.encoding import read_examples
from training.data.files import SUFFIXES, read_table
from training.runs import process
from training.runs.checkpoints import find_checkpoints
from training.runs.events import EvaluationEvent, Event, RetentionEvent, StepEvent, append_event, read_events
from training.runs.store import Run, RunStore, Status
from training.settings.train import TrainingSettings, setting_fields

NAMES = [item.name for item in setting_fields()]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, demo_model_dir: Path) -> Run:
    """A run that is as it should be."""
    return write_past_run(tmp_path_factory.mktemp("output"), demo_model_dir, "good", (2, 4))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).create(TrainingSettings(max_steps=4), "run")


def show(run: Run, speech: Speech) -> str:
    """All that a page asks of a run."""
    view = read_view(run, RunFeed().read(run))
    shown = run_html(view, speech) + loss_html(view, speech) + retention_html(view, speech)
    shown.encode()  # else no page could send it
    return shown


RUN_PLACES = [
    *((name,) for name in ("created_at", "settings", "state", "format")),
    *(("state", name) for name in ("status", "pid", "pid_started_at", "resume_step", "best_step", "updated_at")),
    *(("state", name) for name in ("message_en", "host", "boot")),
    *(("settings", name) for name in ("share", "max_steps", "load_best_model_at_end", "train_file")),
]


@tried
@given(place=st.sampled_from(RUN_PLACES), value=JSON, active=st.booleans())
def test_any_value_in_a_runs_file_is_shown_or_refused(
    good: Run, place: tuple[str, ...], value: Any, active: bool
) -> None:
    file = good.path / "run.json"
    before = file.read_text(encoding="utf-8")
    content = json.loads(before)
    content["state"] |= {"status": "running", "pid": os.getpid(), "pid_started_at": 1.0} if active else {}
    try:
        file.write_text(json.dumps(placed(content, place, value)), encoding="utf-8")
        store = RunStore(good.path.parent)
        listed = [run.name for run in store.list()]
        told = [error.en for _, error in store.broken()]
        assert listed == ["good"] or (len(told) == 1 and str(good.path) in told[0])
        in_a_sentence(store.active)
        in_a_sentence(lambda: show(good, Speech("zh")))
        in_a_sentence(lambda: process.request_stop(good))
        in_a_sentence(good.settings)
    finally:
        file.write_text(before, encoding="utf-8")
        good.set_stop_request(False)


@tried
@given(content=GARBAGE)
def test_any_file_in_a_runs_place_hides_no_other(tmp_path: Path, content: bytes) -> None:
    store = RunStore(tmp_path / "output")
    for name in ("good", "bad"):
        if not (store.root / name).exists():
            store.create(TrainingSettings(), name)
    (store.root / "bad" / "run.json").write_bytes(content)
    assert [run.name for run in store.list()] == ["good"]
    assert len(list(store.broken())) == 1


METADATA = ["run", "base_model", "step", "loss", "created_at", "settings", "pre_seq_len", "prefix_projection"]


@tried
@given(values=st.dictionaries(st.sampled_from(METADATA), JSON), config=GARBAGE)
def test_any_metadata_of_a_checkpoint_leaves_gaps(good: Run, values: dict[str, Any], config: bytes) -> None:
    place = good.checkpoint_path(4)
    before = (place / "prefix.json").read_bytes()
    (place / "prefix.json").write_text(json.dumps(values), encoding="utf-8")
    for name in ("config.json", "trainer_state.json"):
        (place / name).write_bytes(config)
    try:
        for info in (*find_checkpoints(place), *good.checkpoints()):
            assert 0 <= info.step <= 10**9
            time.localtime(info.created_at)
            assert isinstance(info.settings, dict)
    finally:
        (place / "prefix.json").write_bytes(before)
        for name in ("config.json", "trainer_state.json"):
            (place / name).unlink()


EVENTS = st.builds(step_event, st.integers(0, 9), loss=st.floats()) | st.builds(
    EvaluationEvent, step=st.integers(0, 9), metrics=st.dictionaries(st.text(max_size=5), st.floats(), max_size=2)
)


@tried
@given(pieces=st.lists(EVENTS | GARBAGE, max_size=6), cuts=st.lists(st.integers(0, 400), max_size=3))
def test_an_event_log_gives_its_records_whatever_stands_between_and_however_it_is_read(
    tmp_path: Path, pieces: list[Event | bytes], cuts: list[int]
) -> None:
    file = tmp_path / "events.jsonl"
    file.unlink(missing_ok=True)
    for piece in pieces:
        if isinstance(piece, bytes):
            with file.open("ab") as log:
                log.write(piece.replace(b"\r", b"").replace(b"\n", b"") + b"\n")
        else:
            append_event(file, piece)
    whole, end = read_events(file)
    ours = [piece for piece in pieces if not isinstance(piece, bytes)]
    assert [repr(event) for event in whole] == [repr(event) for event in ours]
    content, found, offset = file.read_bytes() if pieces else b"", [], 0
    for cut in (*sorted(cuts), len(content)):  # as a reader sees it that looks while it grows
        file.write_bytes(content[:cut])
        events, offset = read_events(file, offset)
        found += events
    assert [repr(event) for event in found] == [repr(event) for event in ours]
    assert offset == end


FIELDS = {
    StepEvent: ("step", "total_steps", "loss", "learning_rate", "gradient_norm", "seconds_per_step", "seconds_left"),
    EvaluationEvent: ("step", "metrics"),
    RetentionEvent: ("step", "kept", "prompts", "unchanged", "examples"),
}


@tried
@given(kind=st.sampled_from([*FIELDS]), data=st.data())
def test_any_record_is_drawn_or_passed_over(good: Run, kind: type[Event], data: st.DataObject) -> None:
    file = good.path / "events.jsonl"
    before = file.read_bytes()
    lines = [json.loads(line) for line in before.splitlines()]
    record = next(line for line in reversed(lines) if line["kind"] == kind.model_fields["kind"].default)
    name = data.draw(st.sampled_from(FIELDS[kind]))
    record[name] = data.draw(JSON | NUMBERS | st.just([{}]) | st.just({"accuracy": 1.0}))
    good.update(status=Status.RUNNING)
    good.name_trainer(os.getpid())
    try:
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        assert show(good, Speech("en"))
    finally:
        file.write_bytes(before)
        good.update(status=Status.FINISHED)


WORDS = st.text(max_size=12) | NUMBERS.map(str) | st.sampled_from(["true", "none", "", "--", "--pre_seq_len", "-5"])


@tried
@given(
    flags=st.lists(st.tuples(st.sampled_from([*NAMES, "output_dir", "fp16", "do_train", "stop"]), WORDS), max_size=4)
)
def test_any_flags_are_understood_or_refused(flags: list[tuple[str, str]]) -> None:
    words = [word for name, value in flags for word in (f"--{name}", value)]
    command = in_a_sentence(lambda: parse_command(words))
    asked = in_a_sentence(command.settings) if command is not None else None
    if asked is not None:
        assert TrainingSettings.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


@tried
@given(content=GARBAGE)
def test_any_file_of_flags_is_understood_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "flags.json"
    file.write_bytes(content)
    in_a_sentence(lambda: parse_command([str(file)]))


ROWS = st.lists(st.dictionaries(st.sampled_from(["content", "summary", "history"]), JSON, max_size=3), max_size=4)


@tried
@given(
    content=GARBAGE
    | ROWS.map(lambda rows: json.dumps(rows).encode())
    | ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    suffix=st.sampled_from(SUFFIXES),
    skip=st.booleans(),
)
def test_any_data_file_is_read_or_refused(tmp_path: Path, content: bytes, suffix: str, skip: bool) -> None:
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(content)

    def read() -> None:
        table = read_table(str(file), skip_bad_rows=skip)
        examples, _ = read_examples(table, find_columns(table, TrainingSettings()))
        assert all(example.prompt and example.response for example in examples)

    in_a_sentence(read)
