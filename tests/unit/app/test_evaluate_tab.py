"""The Evaluate tab without a browser: what is asked for, what is shown, and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.chat.model_host import ModelOptions
from app.evaluation.service import EvaluationView, Wanted
from app.services import Services, build_services
from app.tabs.evaluate import EvaluateTab, Viewer
from app.text.languages import LANGUAGE_COOKIE, Speech
from app.views.evaluation import IMPROVED, ORDERS, WORST, progress_html, rows_html
from chatglm2.errors import ChatGLMError
from training.comparison import process
from training.comparison.place import CSV_FILE, RESULT_FILE, ComparisonPlace, ComparisonStore, Progress, Status
from training.comparison.request import ComparisonRequest
from training.comparison.result import Answered, ComparedRow, Comparison, Contestant
from training.runs.storage import write_together

ENGLISH = Speech("en")


def request(language: str = "en") -> Any:
    return SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})


def made_up(rows: int = 30, text: str = "row") -> Comparison:
    def answer(score: float) -> Answered:
        return Answered(text=text, is_cut=False, rouge_l=score, bleu_4=score)

    scores = dict.fromkeys(("rouge-1", "rouge-2", "rouge-l", "bleu-4"), 10.0)
    return Comparison(
        model="m",
        file="f",
        general_file=None,
        finished_at="2024-01-01T00:00:00",
        seconds=1,
        contestants=(
            Contestant(name="", checkpoint=None, scores=scores),
            Contestant(name="run", checkpoint="p", scores=scores),
        ),
        rows=tuple(
            ComparedRow(
                number=n + 1,
                prompt=f"{text} {n + 1}",
                history=(),
                reference=text,
                answers=(answer(10), answer(5 + n)),
            )
            for n in range(rows)
        ),
    )


@pytest.fixture
def services(demo_model_dir: Path, tmp_path: Path) -> Services:
    return build_services(ModelOptions(str(demo_model_dir), device="cpu"), tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> ComparisonPlace:
    """One that is over, with results."""
    made = ComparisonStore(tmp_path).create(ComparisonRequest(values={}, checkpoints=(), file="f"))
    write_together({made.path / RESULT_FILE: made_up().model_dump_json(), made.path / CSV_FILE: "row"})
    made.set_progress(Progress(status=Status.FINISHED, done=30, total=30))
    return made


@pytest.fixture
def tab(services: Services, page: gr.Blocks) -> EvaluateTab:
    return EvaluateTab(services, gr.BrowserState())


def numbers(html: str) -> list[int]:
    return [int(part.split('"')[0]) for part in html.split('data-key="')[1:]]


def test_a_viewer_is_sent_what_changed_and_keeps_the_rows_as_they_were_sorted(
    tab: EvaluateTab, place: ComparisonPlace, tmp_path: Path
) -> None:
    first = tab.on_tick(Viewer(), request())
    assert ">finished<" in first[tab.progress] and "row 30" in first[tab.rows]
    assert list(tab.on_tick(first[tab.viewer], request())) == [tab.viewer]
    picked = tab.on_pick(place.name, request())[tab.viewer]
    other = ComparisonStore(tmp_path).create(place.request())
    later = tab.on_tick(Viewer(place.name, picked.fingerprint, picked.result), request())
    assert tab.name in later and tab.rows not in later
    assert tab.on_tick(later[tab.viewer], request("zh"))[tab.viewer] == gr.skip() and other.name != place.name


def test_a_page_that_was_started_again_shows_what_there_is(place: ComparisonPlace, services: Services) -> None:
    view = services.evaluation.view(place.name)
    assert view.result == made_up() and view.progress.status is Status.FINISHED
    assert services.evaluation.result_files(place.name) == [CSV_FILE, RESULT_FILE]


@pytest.mark.parametrize("file", ["request.json", "../../secret", "/etc/passwd", ""])
def test_only_results_can_be_taken_away(place: ComparisonPlace, services: Services, file: str) -> None:
    assert services.evaluation.result_file(place.name, CSV_FILE) == place.path / CSV_FILE
    with pytest.raises(ChatGLMError, match="has no file"):
        services.evaluation.result_file(place.name, file)


def test_one_evaluation_at_a_time_and_what_ended_early_goes_on(
    place: ComparisonPlace, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(process, "spawn_module", lambda module, *_: begun.append(module[1]))
    place.set_progress(Progress(status=Status.STOPPED, done=3, total=30))
    services.evaluation.stop(place.name)
    services.evaluation.go_on(place.name, "en")
    assert begun == [str(place.path)] and not place.shall_stop
    assert services.evaluation.view(place.name).progress.status is Status.STARTING
    with pytest.raises(ChatGLMError, match="runs already"):
        services.evaluation.start(Wanted([]), "en")


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_sorted_as_asked(order: str) -> None:
    found = numbers(rows_html(made_up(), 1, "all", order, "", ENGLISH))
    assert found == sorted(found, reverse=order.endswith("down"))


def test_the_short_lists_hold_twenty_and_a_search_looks_at_all_texts() -> None:
    assert numbers(rows_html(made_up(), 1, WORST, "by_number", "", ENGLISH)) == list(range(1, 21))
    assert numbers(rows_html(made_up(), 1, IMPROVED, "by_number", "", ENGLISH)) == list(range(30, 10, -1))
    assert numbers(rows_html(made_up(), 1, "all", "by_number", " ROW 7", ENGLISH)) == [7]


def test_what_models_say_cannot_become_markup() -> None:
    assert "<script" not in rows_html(made_up(3, "<script>"), 1, "all", "by_number", "", ENGLISH)


@pytest.mark.parametrize(("language", "said"), [("en", "2 of 8 answered · about 3 s left"), ("zh", "已回答 2/8")])
def test_progress_tells_how_far_and_how_long(language: str, said: str) -> None:
    view = EvaluationView("x", "x", Progress(status=Status.RUNNING, done=2, total=8, rate=2.0), None)
    assert said.split(" · ")[0] in progress_html(view, Speech(language))
    assert 'aria-valuenow="25"' in progress_html(view, Speech(language))


def test_an_evaluation_is_called_otherwise_and_deleted_once_it_is_asked_about(
    tab: EvaluateTab, place: ComparisonPlace, services: Services
) -> None:
    picked = tab.on_pick(place.name, request())
    renamed = tab.on_rename(place.name, "  the first\n one ", request())
    assert services.evaluation.titles() == {place.name: "the first one"}
    assert renamed[tab.name].choices == [("the first one", place.name)]
    assert tab.rows not in tab.on_tick(picked[tab.viewer], request())  # rows stay as they were sorted
    asked = tab.on_ask_delete(place.name, request())
    assert "the first one" in asked[tab.question] and place.path.exists()
    assert place.path.exists() and tab.on_keep()[tab.doomed] == ""
    gone = tab.on_delete(place.name, request())
    assert not place.path.exists() and services.evaluation.titles() == {} and gone[tab.scores] == ""
    with pytest.warns(UserWarning, match="no evaluation"):  # somebody else was faster: it is said, and nothing breaks
        tab.on_delete(place.name, request())


def test_a_title_may_be_anything_and_one_that_runs_is_not_deleted(place: ComparisonPlace, services: Services) -> None:
    services.evaluation.rename(place.name, "长" * 500)
    assert services.evaluation.titles()[place.name] == "长" * 60
    (place.path / "title.txt").write_bytes(b"\xff\xfe" * 4)
    assert services.evaluation.titles()[place.name]
    services.evaluation.rename(place.name, " ")
    assert services.evaluation.titles()[place.name] == place.name
    place.set_progress(Progress(status=Status.RUNNING, done=1, total=30))
    with place.lease.held(), pytest.raises(ChatGLMError, match="Stop it first"):
        services.evaluation.delete(place.name)


def test_a_form_comes_back_as_it_was_and_without_what_cannot_be(tab: EvaluateTab) -> None:
    form = tab.form
    kept = {"source": "upload", "limit": 7, "asked": "nothing", "choices": "sample", "bias": "x" * 9}
    found = form.on_return(kept)
    assert (found[form.source], found[form.asked], found[form.choices], found[form.limit]) == (
        *("upload", "nothing", "sample", 7),
    )
    assert found[form.files["source"]].visible and form.bias not in found
    for anything in (None, [], {"limit": "many", "source": ["upload"]}, {"limit": 1e9, "choices": {}}):
        assert set(form.on_return(anything)) == {form.limit}


def test_a_form_asks_for_what_was_chosen_and_for_nothing_where_a_file_is_missing(tab: EvaluateTab) -> None:
    form = tab.form
    values: dict[Any, Any] = dict.fromkeys(form.inputs)
    values |= {form.source: "sample", form.asked: "nothing", form.choices: "sample", form.bias: "upload"}
    assert form.wanted(values) is None
    values[form.files["bias"]] = "/tmp/mine.json"
    wanted = form.wanted(values)
    assert wanted is not None and not wanted.asks_general and wanted.file is None
    assert (Path(str(wanted.choices)).name, wanted.bias, wanted.rows) == ("choices.json", "/tmp/mine.json", 100)
