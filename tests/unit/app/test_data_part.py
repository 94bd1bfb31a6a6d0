"""The data of the Train tab as a person looks at it: what is wrong, its rows, one as it is learnt, and fixes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.chat.model_host import ModelHost
from app.places import places_for
from app.services import Services, build_services
from app.tabs.train import TrainTab
from app.tabs.training.form import UPLOAD, Updates
from app.tabs.training.kept import KeptLooks
from app.text.languages import LANGUAGE_COOKIE
from training.data.files import read_table

ROWS = ["上衣,这件上衣很百搭。", "裙子,飘逸。", "上衣,这件上衣很百搭。", "裤子,", "外套,保暖。"]


def request(language: str = "en") -> Any:
    return SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})


@pytest.fixture(scope="module")
def services(host: ModelHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One for all tests, as files are looked at in a process of their own; each test has a folder of its own."""
    root = tmp_path_factory.mktemp("output")
    services = build_services(host.options, root, places_for(root, data=[tmp_path_factory.getbasetemp()]))
    services.host._session = host.session
    yield services
    services.training.close()


@pytest.fixture
def train(services: Services, page: gr.Blocks) -> TrainTab:
    return TrainTab(services, KeptLooks())


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sentences: list[str] = []
    monkeypatch.setattr(gr, "Warning", sentences.append)
    monkeypatch.setattr(gr, "Info", sentences.append)
    return sentences


def upload(directory: Path, rows: list[str] = ROWS) -> str:
    file = directory / "rows.csv"
    file.write_text("\n".join(["content,summary", *rows]), encoding="utf-8")
    return str(file)


def form_with(train: TrainTab, file: str, **settings: Any) -> dict[Any, Any]:
    data = train.data
    states = (data.page, data.limits, data.split_off, train.file_of_run)
    components = (*train.form.values(), *train.columns.values(), data.search, *states)
    values = {component: component.value for component in components} | {data.search: ""}
    settled = {train.form[name]: value for name, value in settings.items()}
    return values | {train.source: UPLOAD, train.file: file} | settled


def visible_fixes(train: TrainTab, updates: Updates) -> set[str]:
    return {name for name, button in train.data.buttons.items() if updates[button].visible}


def test_what_is_wrong_is_said_by_the_file_with_the_fixes_that_help(train: TrainTab, tmp_path: Path) -> None:
    updates = train.on_file(form_with(train, upload(tmp_path)), request("zh"))
    findings = updates[train.data.findings]
    assert "第 4 行：与第 2 行相同" in findings and "第 5 行" in findings
    assert visible_fixes(train, updates) == {"drop_duplicates", "drop_empty", "split_data"}
    assert train.data.findings not in (train.preview_box.children or [])  # said even where the preview is closed


def test_a_file_that_cannot_be_read_is_named_outside_of_the_preview(train: TrainTab, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,a\n1,2\n", encoding="utf-8")
    updates = train.on_file(form_with(train, str(tmp_path / "rows.csv")), request())
    assert "appears twice" in updates[train.data.findings] and not updates[train.preview]
    assert not updates[train.data.fixes].visible


def test_rows_are_paged_through_and_searched(train: TrainTab, tmp_path: Path) -> None:
    file = upload(tmp_path, [f"问题{number:02},回答" for number in range(25)])
    values = form_with(train, file)
    first = train.on_file(values, request())
    assert "25 found · page 1 of 3" in first[train.data.rows] and "问题10" not in first[train.data.rows]
    second = train.data.on_next(values | {train.data.page: first[train.data.page]}, request())
    assert "问题10" in second[train.data.rows] and second[train.data.page] == 1
    last = train.data.on_next(values | {train.data.page: 2}, request())
    assert last[train.data.page] == 2 and not last[train.data.next].interactive
    found = train.data.on_search(values | {train.data.search: "问题24", train.data.page: 2}, request())
    assert "1 found" in found[train.data.rows] and "问题24" in found[train.data.rows]
    assert "问题02" in train.data.on_search(values | {train.data.search: "4"}, request())[train.data.rows]


def test_a_row_is_shown_as_the_model_sees_it_with_the_learnt_part_marked(train: TrainTab, tmp_path: Path) -> None:
    values = form_with(train, upload(tmp_path), max_target_length=3)
    shown = train.data.on_row(values, SimpleNamespace(key="0"), request())[train.data.row]
    given, learnt = shown.split('<div class="row-text">')[1].split('<mark class="learnt">')
    assert "[gMASK]sop[Round 1]" in given and "问：上衣" in given and given.endswith("答：")
    kept, rest = learnt.split("</mark>")[0], learnt.split("<s>")[1].split("</s>")[0]
    assert kept.endswith("&lt;/s&gt;") and kept.removesuffix("&lt;/s&gt;") + rest == "这件上衣很百搭。"


@pytest.mark.parametrize(("fix", "left"), [("on_drop_duplicates", 4), ("on_drop_empty", 4)])
def test_a_fix_makes_a_file_beside_and_leaves_the_users_own_as_it_was(
    train: TrainTab, tmp_path: Path, said: list[str], fix: str, left: int
) -> None:
    file = upload(tmp_path)
    before = Path(file).read_bytes()
    made = getattr(train.data, fix)(form_with(train, file), request())[train.file]
    assert len(read_table(made).rows) == left and Path(made).name in said[0]
    assert Path(file).read_bytes() == before
    again = train.on_file(form_with(train, made), request())
    assert ("drop_duplicates" in visible_fixes(train, again)) != (fix == "on_drop_duplicates")


def test_the_limits_by_one_click_cut_nothing(train: TrainTab, tmp_path: Path) -> None:
    values = form_with(train, upload(tmp_path, ["上衣," + "百搭" * 20, "裤子,显瘦"]), max_target_length=8)
    shown = train.on_file(values, request())
    assert "“Longest answer” 8" in shown[train.data.findings]
    updates = train.data.on_limits(values | {train.data.limits: shown[train.data.limits]}, request())
    assert updates[train.form["max_target_length"]] > 8 and "set_limits" not in visible_fixes(train, updates)


def test_validation_data_is_split_off_and_goes_with_its_file_only(train: TrainTab, tmp_path: Path) -> None:
    rows = [f"问题{number // 2},回答{number}" for number in range(40)]
    values = form_with(train, upload(tmp_path, rows))
    updates = train.data.on_split(values, request())
    trained, dev = (read_table(updates[part]).rows for part in (train.file, train.form["validation_file"]))
    assert len(trained) + len(dev) == 40 and len(dev) == 4
    assert not {row["content"] for row in trained} & {row["content"] for row in dev}
    shown = train.on_file(values | updates, request())
    assert "leak" not in shown[train.data.findings] and shown[train.form["validation_file"]]
    other = train.on_file(values | updates | {train.file: upload(tmp_path)}, request())
    assert other[train.form["validation_file"]] == ""


def test_a_split_file_to_validate_on_is_kept_with_the_run(
    services: Services, train: TrainTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.runs.process.start", lambda run, begin: None)
    values = form_with(train, upload(tmp_path, [f"问题{number},回答" for number in range(20)]))
    values |= train.data.on_split(values, request())
    dev = values[train.form["validation_file"]]
    data = train.data_of(values)
    assert data is not None
    run = services.training.start(data, train.values_of(values), "split")
    Path(dev).unlink()
    assert len(read_table(str(run.settings().validation_file)).rows) == 2


def test_columns_that_were_chosen_stay_chosen_in_a_file_that_has_them(train: TrainTab, tmp_path: Path) -> None:
    values = form_with(train, upload(tmp_path))
    values |= {train.columns["prompt_column"]: "summary", train.columns["response_column"]: "content"}
    assert train.on_file(values, request())[train.columns["prompt_column"]].value == "summary"
    (tmp_path / "other.csv").write_text("prompt,response\na,b\n", encoding="utf-8")
    updates = train.on_file(values | {train.file: str(tmp_path / "other.csv")}, request())
    assert updates[train.columns["prompt_column"]].value == ""
