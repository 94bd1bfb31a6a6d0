"""Several checkpoints and their base, compared: who does the task, who keeps the rest, and that nothing is lost."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import tiny_settings

from chatglm2 import PrefixEncoder, save_prefix
from chatglm2.checkpoints.loading import read_config
from chatglm2.errors import DataError, RunError
from training.cli.train import main
from training.comparison import job
from training.comparison.figures import kept_measures, picture, score_bars
from training.comparison.job import GENERAL_JOURNAL, ROWS_JOURNAL, read_general, run_comparison
from training.comparison.place import ComparisonPlace, ComparisonStore, Progress, Status
from training.comparison.process import go_on, work
from training.comparison.report import comparison_page
from training.comparison.request import ComparisonRequest, plan_comparison, read_checkpoint_list
from training.comparison.result import (
    Answered,
    ComparedRow,
    Comparison,
    Contestant,
    GeneralRow,
    Kept,
    as_csv,
    on_edge,
)
from training.probes import letters
from training.settings.train import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(
        tmp_path_factory.mktemp("comparison"), max_source_length=32, max_target_length=8, do_sample=False
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, settings: TrainingSettings) -> list[str]:
    """Two prefixes of one run."""
    config = copy.deepcopy(read_config(Path(settings.model_name_or_path)))
    config.pre_seq_len = 3
    places = []
    for step in (5, 10):
        directory = tmp_path_factory.mktemp("run", numbered=True) / f"checkpoint-{step}"
        directory.mkdir()
        torch.manual_seed(step)
        save_prefix({name: 9 * value for name, value in PrefixEncoder(config).state_dict().items()}, directory)
        places.append(str(directory))
    return places


@pytest.fixture
def request_of(settings: TrainingSettings, checkpoints: list[str], tmp_path: Path) -> ComparisonRequest:
    rows, general = tmp_path / "rows.json", tmp_path / "general.json"
    rows.write_text(json.dumps([{"content": f"类型#裙{n}", "summary": f"第{n}条"} for n in range(3)]), encoding="utf-8")
    general.write_text(json.dumps([{"prompt": "1 + 1", "response": "2"}, {"prompt": "问候"}]), encoding="utf-8")
    values = {
        **{name: getattr(settings, name) for name in ("model_name_or_path", "max_source_length", "max_target_length")},
        **{"do_sample": False, "test_file": str(rows)},
    }
    return plan_comparison(values, checkpoints, str(general))


class Silence:
    def say(self, en: str, zh: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...


class Impatience(Silence):
    """Stops when ``enough`` rows are answered."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.first: int | None = None

    def progress(self, done: int, total: int) -> None:
        self.first = done if self.first is None else self.first
        if done >= self.enough:
            raise KeyboardInterrupt


def test_everybody_answers_every_row_and_question_the_base_first(
    request_of: ComparisonRequest, checkpoints: list[str], tmp_path: Path
) -> None:
    found = run_comparison(request_of, tmp_path / "out", Silence())
    assert [item.checkpoint for item in found.contestants] == [None, *checkpoints]
    assert [len(row.answers) for row in (*found.rows, *found.general)] == [3] * 5
    assert found.questions_with_answers == 1
    base = found.contestants[0].kept
    assert base is not None and (base.likeness, base.unchanged) == (100.0, 2)
    assert Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_text("utf-8")) == found
    files = {path.name for path in ComparisonPlace(tmp_path / "out").result_files()}
    assert files == {
        *("report.html", "rows.csv", "comparison.json"),
        *("generated_predictions.txt", "generated_predictions-2.txt"),
    }


def test_a_checkpoint_answers_the_same_whoever_else_is_compared(
    request_of: ComparisonRequest, checkpoints: list[str], tmp_path: Path
) -> None:
    together = run_comparison(request_of, tmp_path / "both", Silence())
    alone = run_comparison(
        request_of.model_copy(update={"checkpoints": (checkpoints[1],)}), tmp_path / "alone", Silence()
    )
    for row, own in zip(together.rows, alone.rows, strict=True):
        assert (row.answers[0], row.answers[2]) == own.answers


def test_what_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(request_of: ComparisonRequest, tmp_path: Path) -> None:
    whole = run_comparison(request_of, tmp_path / "whole", Silence())
    with pytest.raises(KeyboardInterrupt):
        run_comparison(request_of, tmp_path / "cut", Impatience(4))
    assert (tmp_path / "cut" / ROWS_JOURNAL).exists() and (tmp_path / "cut" / GENERAL_JOURNAL).exists()
    assert not (tmp_path / "cut" / "comparison.json").exists()
    watcher = Impatience(99)
    again = run_comparison(request_of, tmp_path / "cut", watcher)
    assert watcher.first == 3  # no row of the task is asked for again
    assert (again.rows, again.general) == (whole.rows, whole.general)
    assert not list((tmp_path / "cut").glob("*.partial.jsonl"))


def test_its_process_says_how_it_ended_and_stops_when_asked(request_of: ComparisonRequest, tmp_path: Path) -> None:
    place = ComparisonStore(tmp_path).create(request_of)
    place.ask_to_stop()
    assert work(place, "en") == 0
    assert place.progress().status is Status.STOPPED
    place.ask_to_stop(False)
    assert work(place, "zh") == 0
    progress = place.progress()
    assert (progress.status, progress.done, progress.total) == (Status.FINISHED, 5, 5)
    assert place.result() is not None
    with pytest.raises(RunError, match="done already"):
        go_on(ComparisonStore(tmp_path), place.name, "en")


def test_a_file_that_cannot_be_used_is_named_where_people_look(request_of: ComparisonRequest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    place = ComparisonStore(tmp_path).create(request_of.model_copy(update={"file": str(broken)}))
    assert work(place, "en") == 1
    progress = place.progress()
    assert progress.status is Status.FAILED
    assert "broken.json" in progress.message_en and "broken.json" in progress.message_zh


def test_who_says_that_it_runs_and_has_no_process_is_interrupted(request_of: ComparisonRequest, tmp_path: Path) -> None:
    store = ComparisonStore(tmp_path)
    place = store.create(request_of)
    place.set_progress(Progress(status=Status.RUNNING, done=1, total=5))
    assert place.progress().status is Status.INTERRUPTED and store.active() is None
    with place.lease.held():
        assert store.active() is not None and place.progress().status is Status.RUNNING


def test_general_questions_need_no_answers_of_their_own(settings: TrainingSettings, tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.write_text('[{"question": "a", "answer": 7}, {"question": ""}, {"question": "b"}]', encoding="utf-8")
    assert [(row.prompt, row.response) for row in read_general(file, settings)] == [("a", "7"), ("b", "")]


def test_nobody_on_the_edge_is_beaten() -> None:
    assert on_edge([(10, 100), (30, 90), (29, 80), (40, 20), (30, 90)]) == [True, True, False, True, True]


def test_checkpoints_are_listed_with_commas() -> None:
    assert read_checkpoint_list("a/b, c，d,") == ["a/b", "c", "d"]


@pytest.fixture
def probes(tmp_path: Path) -> tuple[str, str]:
    """A file of multiple choice, and one of attributes."""
    choices, bias = tmp_path / "sums_val.json", tmp_path / "bias.json"
    row = {"question": "1+1=?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"}
    choices.write_text(json.dumps([row, {**row, "subject": "x"}]), encoding="utf-8")
    content = {
        "attributes": [{"name": "who", "groups": {"she": ["她"], "he": ["他"]}}],
        "templates": [{"prompt": "{who}好吗", "answers": ["好"]}, {"prompt": "问候{who}"}],
    }
    bias.write_text(json.dumps(content), encoding="utf-8")
    return str(choices), str(bias)


@pytest.fixture
def letters_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary has no letters; any tokens do as well here."""
    for module in (job, letters):
        monkeypatch.setattr(module, "letter_ids", lambda tokenizer: [(11,), (12,), (13,), (14,)])


@pytest.mark.usefixtures("letters_known")
def test_probes_alone_need_no_rows_and_beside_rows_everybody_is_probed(
    request_of: ComparisonRequest, checkpoints: list[str], probes: tuple[str, str], tmp_path: Path
) -> None:
    choices, bias = probes
    alone = plan_comparison({"model_name_or_path": request_of.values["model_name_or_path"]}, checkpoints, None, *probes)
    assert alone.file is None
    found = run_comparison(alone, tmp_path / "alone", Silence())
    assert found.rows == () and found.general == () and found.choices is not None and found.bias is not None
    assert [len(row.shares) for row in found.choices.rows] == [3, 3]
    assert [subject.name for subject in found.choices.subjects] == ["sums", "x"]
    assert [(row.measure, len(row.differences)) for row in found.bias.rows] == [("likelihood", 3), ("answer", 3)]
    assert {path.name for path in ComparisonPlace(tmp_path / "alone").result_files()} == {
        *("report.html", "comparison.json")
    }
    page = (tmp_path / "alone" / "report.html").read_text("utf-8")
    assert "Multiple-choice questions" in page and "she against he" in page and "ROUGE-1" not in page
    whole = run_comparison(
        request_of.model_copy(update={"choices": choices, "bias": bias}), tmp_path / "whole", Impatience(10**6)
    )
    assert whole.choices == found.choices.model_copy(update={"file": choices}) and len(whole.rows) == 3


def test_a_general_file_of_multiple_choice_is_recognised_and_said(
    request_of: ComparisonRequest, probes: tuple[str, str]
) -> None:
    values = {"model_name_or_path": request_of.values["model_name_or_path"]}
    found = plan_comparison(values, [], probes[0])
    assert (found.general, found.choices) == (None, probes[0])
    assert "--choices" in found.notes[0][0] and "--choices" in found.notes[0][1]
    with pytest.raises(RunError, match="--bias"):
        plan_comparison(values, [], None, None, "nowhere.json")


def test_a_vocabulary_without_letters_is_refused_before_the_model_is_loaded(
    request_of: ComparisonRequest, probes: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no token for each of the letters"):
        run_comparison(request_of.model_copy(update={"choices": probes[0]}), tmp_path / "out", Silence())


def test_the_divergence_tells_a_prefix_from_the_base(request_of: ComparisonRequest, tmp_path: Path) -> None:
    found = run_comparison(request_of, tmp_path / "out", Silence())
    base, *tuned = (item.kept.divergence for item in found.contestants if item.kept)
    assert base == 0.0 and all(value is not None and value > 0 for value in tuned)


def test_each_measure_of_keeping_has_a_picture_with_its_own_edge() -> None:
    comparison = made_up()
    assert kept_measures(comparison) == ["likeness", "right"]  # results of before the divergence was told
    told = [
        item.model_copy(update={"kept": Kept(likeness=90, unchanged=0, right=1, divergence=n)})
        for n, item in enumerate(comparison.contestants)
    ]
    comparison = comparison.model_copy(update={"contestants": tuple(told)})
    assert kept_measures(comparison)[-1] == "divergence"
    for language, name in (("en", "Divergence from the base"), ("zh", "与基座的散度")):
        drawn = picture(comparison, "divergence", language)
        assert name in drawn and drawn.count("<circle") == 2
        points = [float(part.split('"')[0]) for part in drawn.split('cx="')[1:]]
        assert points[0] > points[1]  # less divergence lies to the right
        # The base has as good a task and diverges less: it alone is on the edge.
        assert drawn.count("·") == 1
    assert score_bars(comparison, "en").count('class="score-bar ') == 2 * 5


def made_up(text: str = "好") -> Comparison:
    def answer(score: float) -> Answered:
        return Answered(text=text, is_cut=False, rouge_l=score, bleu_4=score)

    rows = tuple(
        ComparedRow(number=n + 1, prompt=text, history=(), reference=text, answers=(answer(10), answer(10 + n - 5)))
        for n in range(30)
    )
    scores = {"rouge-1": 10.0, "rouge-2": 10.0, "rouge-l": 10.0, "bleu-4": 10.0}
    kept = Kept(likeness=90, unchanged=0, right=1)
    return Comparison(
        model="m",
        file="/data/rows.json",
        general_file="g",
        finished_at="2024-01-01T00:00:00",
        seconds=1,
        contestants=(
            Contestant(name="", checkpoint=None, scores=scores, kept=kept),
            Contestant(name=text, checkpoint="p", scores=scores, kept=kept),
        ),
        rows=rows,
        general=(GeneralRow(question=text, expected="2", answers=(text, text)),),
    )


def test_the_worst_and_the_most_improved_come_first() -> None:
    comparison = made_up()
    assert [row.number for row in comparison.improved(1)] == list(range(30, 10, -1))
    assert [row.number for row in comparison.worst(1)] == list(range(1, 21))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_models_and_files_say_cannot_become_markup_or_a_formula(language: str) -> None:
    comparison = made_up("<script>=1</script>")
    assert "<script" not in comparison_page(comparison, language=language, stylesheet="")
    cells = [cell for row in csv.reader(io.StringIO(as_csv(made_up("=1+1")))) for cell in row]
    assert "'=1+1" in cells and not any(cell.startswith("=") for cell in cells)


def test_the_command_line_compares_and_says_where_the_report_is(
    request_of: ComparisonRequest, checkpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("--do_predict", "--model_name_or_path", request_of.settings().model_name_or_path),
        *("--test_file", request_of.file, "--general", str(request_of.general), "--do_sample", "False"),
        *("--checkpoints", ",".join(checkpoints), "--max_source_length", "32", "--max_target_length", "8"),
    ]
    assert main([*words, "--output_dir", str(tmp_path / "told")]) == 0
    told = capsys.readouterr().out
    assert "checkpoint-5" in told and "checkpoint-10" in told and "100.00" in told
    assert str(tmp_path / "told" / "report.html") in told
    assert main([*words, "--general", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
