"""The doctor finds what is wrong with a data file and tells the line; of a sound file it says that nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from chatglm2 import ChatGLMTokenizer, load_tokenizer
from training.cli.data import main
from training.data.doctor.checks import ODD_CHARACTERS
from training.data.doctor.examination import examine
from training.data.doctor.findings import Diagnosis, Finding, Kind
from training.settings.samples import SAMPLE_DEV_FILE, SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings

SOUND = "上衣,这件上衣很百搭。\n裙子,飘逸。\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> ChatGLMTokenizer:
    return load_tokenizer(model)


def write(directory: Path, name: str, rows: str) -> str:
    file = directory / name
    file.write_text(f"content,summary\n{rows}", encoding="utf-8")
    return str(file)


def diagnose(tokenizer: ChatGLMTokenizer, file: str, **settings: object) -> list[Diagnosis]:
    return examine(TrainingSettings.from_dict({"train_file": file, **settings}), tokenizer)


def only_finding(tokenizer: ChatGLMTokenizer, file: str, **settings: object) -> Finding:
    [finding] = diagnose(tokenizer, file, **settings)[0].findings
    return finding


def test_nothing_is_wrong_with_the_samples(tokenizer: ChatGLMTokenizer) -> None:
    samples = diagnose(tokenizer, str(SAMPLE_TRAIN_FILE), validation_file=str(SAMPLE_DEV_FILE), max_target_length=512)
    assert [diagnosis.is_healthy for diagnosis in samples] == [True, True]


@pytest.mark.parametrize(
    ("rows", "kind", "places", "detail"),
    [
        ("一,二,三\n", Kind.BROKEN, (4,), "line 4: expected 2 cells"),
        ("裤子,\n", Kind.EMPTY, (4,), "line 4: 'summary' is empty"),
        ('裤子,显瘦\n" ",显瘦\n', Kind.EMPTY, (5,), "line 5: 'content' is empty"),
        ("裤子,显瘦\n 上衣,这件上衣很百搭。 \n", Kind.DUPLICATE, (5,), "line 5: the same as line 2"),
        ("裤\u200b子,显瘦\n", Kind.ODD, (4,), "line 4: holds U+200B ZERO WIDTH SPACE"),
        ("裤子,显\ufffd\n", Kind.ODD, (4,), "U+FFFD REPLACEMENT CHARACTER"),
    ],
)
def test_each_problem_is_told_by_line(
    tmp_path: Path, tokenizer: ChatGLMTokenizer, rows: str, kind: Kind, places: tuple[int, ...], detail: str
) -> None:
    finding = only_finding(tokenizer, write(tmp_path, "rows.csv", SOUND + rows))
    assert (finding.kind, finding.places) == (kind, places)
    assert detail in finding.details[0][0]
    assert f"第 {places[0]} 行" in finding.where[1]


def test_the_same_prompt_with_another_answer_is_no_duplicate(tmp_path: Path, tokenizer: ChatGLMTokenizer) -> None:
    file = write(tmp_path, "rows.csv", SOUND + "上衣,好看。\n")
    assert diagnose(tokenizer, file)[0].is_healthy


def test_a_row_to_validate_on_whose_question_is_trained_on_is_a_leak(
    tmp_path: Path, tokenizer: ChatGLMTokenizer
) -> None:
    training, dev = write(tmp_path, "rows.csv", SOUND), write(tmp_path, "dev.csv", "裤子,显瘦\n裙子,好看。\n")
    healthy, leaking = diagnose(tokenizer, training, validation_file=dev)
    [finding] = leaking.findings
    assert healthy.is_healthy and (finding.kind, finding.places) == (Kind.LEAK, (3,))
    assert finding.details == (("line 3: asked in rows.csv, line 3", "第 3 行：rows.csv 第 3 行已有同样的提示"),)


def test_the_limits_that_are_told_cut_nothing_and_one_less_does(tmp_path: Path, tokenizer: ChatGLMTokenizer) -> None:
    file = write(tmp_path, "rows.csv", SOUND + f"{'裤子' * 40},{'显瘦' * 30}\n")
    short = {"max_source_length": 40, "max_target_length": 8}
    [diagnosis] = diagnose(tokenizer, file, **short)
    assert [finding.kind for finding in diagnosis.findings] == [Kind.LONG_PROMPT, Kind.LONG_ANSWER]
    assert all(4 in finding.places for finding in diagnosis.findings)
    assert diagnose(tokenizer, file, **diagnosis.limits)[0].is_healthy
    for name, value in diagnosis.limits.items():
        assert not diagnose(tokenizer, file, **diagnosis.limits | {name: value - 1})[0].is_healthy


def test_emoji_and_scripts_that_need_joints_are_not_odd() -> None:
    assert not ODD_CHARACTERS.search("👩‍👩‍👧 می‌خواهم ☕️ 全角　空格\t\n🏴󠁧󠁢󠁥󠁮󠁧󠁿")


def test_rows_of_one_conversation_are_one_place(tmp_path: Path, tokenizer: ChatGLMTokenizer) -> None:
    said = '{"messages": [{"role": "user", "content": "好"}, {"role": "assistant", "content": "好\\u200b"}, '
    said += '{"role": "user", "content": "在"}, {"role": "assistant", "content": "在\\u200b"}]}'
    (tmp_path / "rows.jsonl").write_text(said, encoding="utf-8")
    assert only_finding(tokenizer, str(tmp_path / "rows.jsonl")).places == (1,)


def test_many_places_are_counted_beyond_the_first(tmp_path: Path, tokenizer: ChatGLMTokenizer) -> None:
    finding = only_finding(tokenizer, write(tmp_path, "rows.csv", SOUND + "裤子,\n" * 20))
    assert finding.where[0] == "lines 4, 5, 6, 7, 8, 9, 10, 11 and 12 more"
    assert len(finding.places) == 20


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [(SOUND, 0, "Nothing is wrong."), (SOUND + "裤子,\n", 1, "line 4"), ("", 2, "has a header but no rows")],
)
def test_the_command_tells_and_its_exit_code_says_whether_something_is_wrong(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert main([write(tmp_path, "rows.csv", rows), "--model-name-or-path", str(model)]) == code
    written = capsys.readouterr()
    assert said in written.out + written.err


def test_of_more_rows_than_are_measured_it_says_how_many_were(
    tmp_path: Path, tokenizer: ChatGLMTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "rows.csv", SOUND + f"裤子,{'显瘦' * 30}\n")
    assert "measured" not in only_finding(tokenizer, file, max_target_length=20).says[0]
    monkeypatch.setattr("training.data.doctor.checks.MEASURED_ROWS", 2)
    assert "of the 2 rows that were measured" in only_finding(tokenizer, file, max_target_length=20).says[0]
