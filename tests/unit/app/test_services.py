"""Behind the page: sources, two panes answering together, and runs as they are shown. Real small model, no browser."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gradio
import pytest
import torch
from httpx import Response
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from tiny_checkpoint import write_examples, write_tiny_checkpoint
from torch import Tensor

from app.chat.conversation import Conversation
from app.chat.duet import draw_seeds
from app.chat.model_host import ModelHost, ModelOptions
from app.chat.service import ChatSettings, parse_seed
from app.chat.sources import BASE
from app.door.door import Door, Mode, Policy
from app.places import places_for
from app.services import Services, build_services
from app.text.languages import Speech
from app.training.form import as_on_page, preset_reason, preset_values
from app.training.service import DataChoice
from app.views.checkpoint_table import DOWNLOAD_PATH, ORIGINAL_FORMAT, checkpoint_table
from app.views.data_doctor import findings_html
from app.views.dataset import trials_html
from app.views.run_figures import loss_html, ready_html, retention_html
from app.web.downloads import prepare_download
from app.web.entrance import Entrance
from app.web.forwarding import Forwarding
from app.web.server import routes
from chatglm2 import ChatGLMConfig, save_prefix
from chatglm2.errors import ChatGLMError, EngineError, PrefixError, PromptError
from chatglm2.model.prefix import load_prefix_state
from training.cli.export import main as export_from_shell
from training.runs.checkpoints import METADATA_FILE, MODEL_METADATA_FILE
from training.runs.events import EvaluationEvent, FinishedEvent, RetentionEvent, StartedEvent, StepEvent
from training.runs.layout import EVENTS_FILE
from training.runs.store import RunStore, Status
from training.settings.presets import PRESETS
from training.settings.train import TrainingSettings

EN = Speech("en")
SETTINGS = ChatSettings(0.8, 0.8, 50, 1.0, 24, seed=7, same_seed=True)
KEYS = {"left": BASE, "right": BASE}


@pytest.fixture(scope="module")
def host(tiny_model_dir: Path) -> Iterator[ModelHost]:
    host = ModelHost(ModelOptions(str(tiny_model_dir), device="cpu"))
    host.start()
    assert host.wait(60)
    yield host
    host.close()


@dataclass(frozen=True)
class Place:
    services: Services
    output: Path
    checkpoint: str


@pytest.fixture
def place(host: ModelHost, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Services on the loaded model, with one run that has one checkpoint."""
    services = build_services(host.options, tmp_path, places_for(tmp_path, [tmp_path], [golden]))
    monkeypatch.setattr(services.host, "_session", host.session)
    run = RunStore(tmp_path).create(TrainingSettings(), "my-run")
    run.update(status=Status.FINISHED)
    checkpoint = run.checkpoint_path(40)
    shutil.copytree(golden / "prefix", checkpoint)
    return Place(services, tmp_path, str(checkpoint))


def answer(place: Place, question: str = "你好", keys: dict[str, str] = KEYS) -> Conversation:
    conversation = Conversation()
    conversation.ask(question)
    for _ in place.services.chat.answer(conversation, 0, keys, SETTINGS, EN):
        pass
    return conversation


# The model host


def test_until_the_model_is_there_questions_get_a_sentence(tiny_model_dir: Path) -> None:
    with pytest.raises(EngineError, match="still loading"):
        _ = ModelHost(ModelOptions(str(tiny_model_dir))).session


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    host = ModelHost(ModelOptions(str(tmp_path)))
    host.start()
    assert host.wait(60)
    assert host.state.phase == "failed"
    with pytest.raises(ChatGLMError, match=r"tokenizer\.model"):
        _ = host.session


# Sources


def test_a_new_checkpoint_is_found_and_is_the_newest(place: Place) -> None:
    assert [source.key for source in place.services.sources.sources()] == [BASE, place.checkpoint]
    newest = place.services.sources.newest(place.services.host.options.path)
    assert newest is not None and newest.name == "my-run / checkpoint-40"


def test_a_checkpoint_of_another_model_is_not_offered_first(place: Place) -> None:
    (Path(place.checkpoint) / "prefix.json").write_text('{"base_model": "/elsewhere/other-model"}', encoding="utf-8")
    assert place.services.sources.newest(place.services.host.options.path) is None
    assert place.services.sources.newest("/elsewhere/other-model") is not None


def test_a_prefix_is_read_once_and_again_when_it_changed(place: Place) -> None:
    sources = place.services.sources
    first = sources.load(place.checkpoint)
    assert sources.load(place.checkpoint).prefix is first.prefix
    assert first.has_effect
    time.sleep(0.01)
    (Path(place.checkpoint) / "pytorch_model.bin").touch()
    assert sources.load(place.checkpoint).prefix is not first.prefix


def test_a_truncated_prefix_is_a_sentence(place: Place) -> None:
    file = Path(place.checkpoint) / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PrefixError):
        place.services.sources.load(place.checkpoint)


def test_deleting_a_runs_checkpoint_deletes_it(place: Place) -> None:
    place.services.sources.delete(place.checkpoint)
    assert not Path(place.checkpoint).exists()
    assert [source.key for source in place.services.sources.sources()] == [BASE]
    with pytest.raises(PrefixError, match="gone"):
        place.services.sources.load(place.checkpoint)


def test_a_named_path_is_remembered_and_forgetting_it_keeps_its_files(place: Place, golden: Path) -> None:
    (added,) = place.services.sources.name_path(str(golden / "prefix-projection"))
    again = build_services(place.services.host.options, place.output, places_for(place.output, (), [golden])).sources
    assert added.key in [source.key for source in again.sources()]
    again.delete(added.key)
    assert Path(added.key).exists()
    assert added.key not in [source.key for source in again.sources()]


@pytest.mark.parametrize("path", ["", "  ", "/no/such/place", "~nobody/x"])
def test_a_path_without_a_checkpoint_is_a_sentence(place: Place, path: str) -> None:
    with pytest.raises(ChatGLMError):
        place.services.sources.name_path(path)


def test_an_archive_holds_the_prefix_and_can_be_loaded_again(place: Place, tmp_path: Path) -> None:
    info = place.services.sources.find(place.checkpoint).info
    assert info is not None
    (Path(place.checkpoint) / "optimizer.pt").write_bytes(b"not taken")
    archive = prepare_download(info, "", place.services.host.options)
    with zipfile.ZipFile(archive.file) as zipped:
        zipped.extractall(tmp_path / "elsewhere")
    archive.discard()
    assert archive.name == "my-run-checkpoint-40.zip" and not archive.directory.exists()
    (added,) = place.services.sources.name_path(str(tmp_path / "elsewhere" / "my-run-checkpoint-40"))
    assert not (Path(added.key) / "optimizer.pt").exists()


def write_ours(place: Place, prefix: Path, base_model: str) -> dict[str, Tensor]:
    """Makes the checkpoint one that a run of ours left, on ``base_model``; returns what a shell's export holds."""
    config = ChatGLMConfig.from_pretrained(place.services.host.options.path)
    checkpoint = Path(place.checkpoint)
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    save_prefix(load_prefix_state(prefix, config), checkpoint)
    (checkpoint / METADATA_FILE).write_text(json.dumps({"step": 40, "base_model": base_model}), encoding="utf-8")
    output = place.output / "exported"
    given = [str(checkpoint), "--output", str(output), "--base-model", place.services.host.options.path]
    assert export_from_shell(given) == 0
    return torch.load(output / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize("base_model", ["", "/moved/model"])
@pytest.mark.parametrize("name", ["prefix", "prefix-projection"])
def test_the_originals_format_holds_what_export_writes(place: Place, golden: Path, name: str, base_model: str) -> None:
    exported = write_ours(place, golden / name, base_model)
    info = place.services.sources.find(place.checkpoint).info
    assert info is not None
    original = prepare_download(info, ORIGINAL_FORMAT, place.services.host.options)
    found = torch.load(original.file, weights_only=True)
    original.discard()
    assert original.name == "pytorch_model.bin" and not original.directory.exists()
    assert found.keys() == exported.keys() == torch.load(golden / name / "pytorch_model.bin", weights_only=True).keys()
    for tensor_name, tensor in found.items():
        assert tensor.dtype == exported[tensor_name].dtype and torch.equal(tensor, exported[tensor_name])


def test_a_download_is_answered_with_the_file_or_a_sentence(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    door = [Middleware(Forwarding), Middleware(Entrance, door=Door(Policy(Mode.OPEN)), cookie="session")]
    client = TestClient(Starlette(routes=routes(place.services), middleware=door))

    def ask(key: str, language: str = "en") -> Response:
        asked = {"key": key, "format": ORIGINAL_FORMAT}
        return client.get(f"/{DOWNLOAD_PATH}", params=asked, headers={"accept-language": language})

    answer = ask(place.checkpoint)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="pytorch_model.bin"'
    assert torch.load(io.BytesIO(answer.content), weights_only=True)
    file = Path(place.checkpoint) / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:100])
    assert ask(place.checkpoint).status_code == ask(BASE).status_code == 404
    assert "damaged" in ask(place.checkpoint).text and "损坏" in ask(place.checkpoint, "zh-CN").text
    assert "基座模型不是检查点" in ask(BASE, "zh-CN").text
    assert not list(tmp_path.glob("download-*"))


def test_a_complete_model_has_no_original_format(place: Place) -> None:
    source = place.services.sources.find(place.checkpoint)
    assert source.info is not None
    complete = replace(source, info=replace(source.info, kind="model"))
    links = [checkpoint_table([shown], {}, EN).count(f"{DOWNLOAD_PATH}?") for shown in (source, complete)]
    assert links == [2, 1]
    (source.info.path / MODEL_METADATA_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ChatGLMError, match="complete model"):
        prepare_download(source.info, ORIGINAL_FORMAT, place.services.host.options)


# Two panes


def test_both_panes_answer_and_say_who_spoke(place: Place) -> None:
    answers = answer(place, keys={"left": BASE, "right": place.checkpoint}).rounds[0].answers
    assert answers["left"].source == "base · chatglm2-tiny"
    assert answers["right"].source.startswith("my-run · step 40 · prefix ")
    assert answers["left"].text and answers["right"].text and answers["left"].text != answers["right"].text
    assert answers["left"].tokens > 0 and answers["left"].finish_reason in ("stop", "length")


def test_the_same_seed_and_the_same_model_give_the_same_answer(place: Place) -> None:
    answers = answer(place).rounds[0].answers
    assert answers["left"].text == answers["right"].text


def test_a_broken_checkpoint_silences_only_its_own_pane(place: Place) -> None:
    (Path(place.checkpoint) / "pytorch_model.bin").write_bytes(b"torn")
    conversation = Conversation()
    conversation.ask("你好")
    keys = {"left": BASE, "right": place.checkpoint}
    for _ in place.services.chat.answer(conversation, 0, keys, SETTINGS, Speech("zh")):
        pass
    answers = conversation.rounds[0].answers
    assert answers["left"].text and not answers["left"].error
    assert "损坏" in answers["right"].error and not answers["right"].text


def test_a_message_may_stand_alone(place: Place) -> None:
    alone = replace(SETTINGS, remember=False)
    conversation = answer(place)
    first = conversation.rounds[0].answers["left"].text
    conversation.ask("你好")
    for _ in place.services.chat.answer(conversation, 1, KEYS, alone, EN):
        pass
    assert conversation.rounds[1].answers["left"].text == first
    assert conversation.rounds[1].answers["left"].stands_alone


def test_stop_ends_both_and_keeps_what_was_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.services.host.session.engine.model.config, "eos_token_id", None)
    conversation = Conversation()
    conversation.ask("你好")
    endless = ChatSettings(1.0, 1.0, 0, 1.0, 400, seed=1, same_seed=False)
    for _ in place.services.chat.answer(conversation, 0, KEYS, endless, EN):
        if conversation.rounds[0].answers["left"].text:
            conversation.stop_requested = True
    assert conversation.rounds[0].answers["left"].text
    assert {answer.finish_reason for answer in conversation.rounds[0].answers.values()} == {"cancelled"}
    assert not conversation.streaming


def test_a_question_far_too_long_is_refused_at_once(place: Place) -> None:
    began = time.monotonic()
    with pytest.raises(PromptError):
        place.services.chat.check("长" * 50_000_000, SETTINGS)
    assert time.monotonic() - began < 2


def test_seeds_are_the_given_ones_and_differ_unless_told_otherwise() -> None:
    assert draw_seeds(5, same=True) == {"left": 5, "right": 5}
    assert len(set(draw_seeds(5, same=False).values())) == 2
    assert draw_seeds(None, same=True) != draw_seeds(None, same=True)


def test_a_closed_tab_frees_the_engine(place: Place, host: ModelHost) -> None:
    conversation = Conversation()
    conversation.ask("你好")
    endless = ChatSettings(1.0, 1.0, 0, 1.0, 400, seed=1, same_seed=False)
    answers = place.services.chat.answer(conversation, 0, KEYS, endless, EN)
    next(answers)
    answers.close()
    deadline = time.monotonic() + 5
    while host.session.engine.stats().active and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.session.engine.stats().active == 0
    assert not conversation.streaming


@pytest.mark.parametrize("text, seed", [("", None), ("  ", None), ("7", 7), (" 42 ", 42)])
def test_a_seed_is_a_whole_number_or_nothing(text: str, seed: int | None) -> None:
    assert parse_seed(text) == seed


@pytest.mark.parametrize("text", ["-1", "9" * 5000, "1.5", "abc", "9" * 30, "²"])
def test_any_other_seed_is_a_sentence(text: str) -> None:
    with pytest.raises(PromptError, match="seed"):
        parse_seed(text)


# Training


def step(number: int, loss: float) -> StepEvent:
    return StepEvent(
        step=number,
        total_steps=4,
        loss=loss,
        learning_rate=0.01,
        gradient_norm=1.0,
        seconds_per_step=0.5,
        tokens_per_second=100.0,
        seconds_left=1.0,
    )


def test_a_run_is_shown_as_its_files_say(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    for event in (
        StartedEvent(step=0, total_steps=4, examples=9, trainable_parameters=3, device="cpu"),
        step(1, 3.0),
        step(2, 0.0),
    ):
        run.append(event)
    view = place.services.training.view("my-run")
    assert (view.step, view.total_steps, len(view.losses)) == (2, 4, 2)
    assert view.collapsed
    run.append(step(3, 2.0))
    run.append(FinishedEvent(step=3, en="All done.", zh="完成。"))
    view = place.services.training.view("my-run")
    assert len(view.losses) == 3 and view.message == ("All done.", "完成。")
    assert not view.can_resume


def test_how_a_run_ended_once_is_no_news_while_it_trains_again(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    run.append(FinishedEvent(step=3, en="Stopped as asked.", zh="已按要求停止。"))
    assert place.services.training.view("my-run").message is not None
    run.update(status=Status.STARTING)
    assert place.services.training.view("my-run").message is None


def test_a_resumed_curve_forgets_steps_that_are_done_again(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    for event in (step(1, 3.0), step(2, 2.0), step(3, 1.0)):
        run.append(event)
    run.append(StartedEvent(step=1, total_steps=4, examples=9, trainable_parameters=3, device="cpu"))
    assert [point.step for point in place.services.training.view("my-run").losses] == [1]


def test_validation_and_what_is_forgotten_are_shown(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    run.append(StartedEvent(step=0, total_steps=4, examples=9, trainable_parameters=3, device="cpu"))
    run.append(RetentionEvent(step=0, kept=100.0, prompts=12, unchanged=12, examples=[]))
    assert retention_html(place.services.training.view("my-run"), EN) == ""
    changed = {"prompt": "你好", "before": "<b>你好！</b>", "after": "一条" + "裙" * 99}
    for event in (
        step(1, 3.0),
        EvaluationEvent(step=2, metrics={"loss": 2.5, "rouge-l": 21.25}),
        RetentionEvent(step=2, kept=62.5, prompts=12, unchanged=7, examples=[changed]),
    ):
        run.append(event)
    view = place.services.training.view("my-run")
    assert [(point.step, point.value) for point in view.validation] == [(2, 2.5)]
    assert [point.value for point in view.kept] == [100.0, 62.5]
    assert "validation loss 2.5 · rouge-l 21.25" in loss_html(view, EN)
    shown = retention_html(view, EN)
    assert "General answers kept: 62 %" in shown and "7 of 12 word for word" in shown
    assert "&lt;b&gt;你好！&lt;/b&gt;" in shown and "裙…" in shown and "裙" * 60 not in shown


def test_the_best_checkpoint_is_offered_once_all_is_done(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    shutil.copytree(run.checkpoint_path(40), run.checkpoint_path(60))
    asked = replace(run.settings(), load_best_model_at_end=True, validation_file="x.json", eval_steps=1)
    run.update(settings=asked, best_step=40, status="finished")
    view = place.services.training.view("my-run")
    assert view.offered_checkpoint is not None and view.offered_checkpoint.step == 40
    assert "checkpoint-40 validates best" in ready_html(view, EN)
    table = checkpoint_table(place.services.sources.sources(), {}, EN)
    assert "40 · best" in table and "60 · best" not in table
    run.update(settings=replace(asked, load_best_model_at_end=False))
    newest = place.services.training.view("my-run").offered_checkpoint
    assert newest is not None and newest.step == 60


def test_a_run_that_was_started_anew_is_shown_anew(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    for event in (step(1, 3.0), step(2, 2.0), step(3, 1.0)):
        run.append(event)
    assert len(place.services.training.view("my-run").losses) == 3
    (run.path / EVENTS_FILE).unlink()
    run.append(step(1, 5.0))
    assert [point.value for point in place.services.training.view("my-run").losses] == [5.0]


def test_a_checkpoint_that_the_page_cannot_load_is_not_offered(place: Place) -> None:
    run = RunStore(place.output).get("my-run")
    assert place.services.training.view("my-run").offered_checkpoint is not None
    for info in run.checkpoints():
        (info.path / MODEL_METADATA_FILE).write_text("{}", encoding="utf-8")
    view = place.services.training.view("my-run")
    assert view.checkpoints and view.offered_checkpoint is None
    assert ready_html(view, EN) == ""


def test_broken_rows_are_shown_and_stop_a_run_unless_they_are_skipped(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"content": "a", "summary": "b"}\n{\n{"content": 1, "summary": "b"}\n', encoding="utf-8")
    monkeypatch.setattr("training.runs.process.start", lambda run, begin: None)
    report = place.services.training.describe(DataChoice(str(file)), {})
    assert (report.rows, report.bad_rows.numbers) == (3, [2, 3])
    found = place.services.training.doctor.examine(DataChoice(str(file)), {})
    shown = findings_html(found, Speech("zh"))
    assert "2 行无法读取" in shown and "rows.jsonl 第 2 行第 2 列" in shown and "第 2、3 行" in shown
    assert "“跳过有误的行”" in shown and "--" not in shown
    with pytest.raises(ChatGLMError, match=r"line 2.*--skip_bad_rows"):
        place.services.training.start(DataChoice(str(file)), {}, "refused")
    assert "refused" not in place.services.training.names()
    run = place.services.training.start(DataChoice(str(file)), {"skip_bad_rows": True}, "skipping")
    assert run.settings().skip_bad_rows


def test_a_file_to_mix_in_is_looked_at_before_anything_starts(place: Place, tmp_path: Path) -> None:
    rows, general = tmp_path / "rows.jsonl", tmp_path / "general.jsonl"
    rows.write_text('{"content": "a", "summary": "b"}\n', encoding="utf-8")
    with pytest.raises(ChatGLMError, match=r"There is no file .*general\.jsonl"):
        place.services.training.start(DataChoice(str(rows)), {"mix_file": str(general)}, "run")
    general.write_text('{"q": "a"}\n', encoding="utf-8")
    with pytest.raises(ChatGLMError, match=r"general\.jsonl: cannot tell prompt and answer"):
        place.services.training.start(DataChoice(str(rows)), {"mix_file": str(general)}, "run")
    assert place.services.training.names() == ["my-run"]


@pytest.mark.parametrize("name", ["", *PRESETS])
def test_a_preset_fills_the_form_and_no_preset_restores_the_defaults(name: str) -> None:
    values = preset_values(name, {})
    assert set(values) == set(preset_values("", {}))
    asked = TrainingSettings.from_dict({"preset": name, **values}).to_dict()
    on_page = as_on_page(PRESETS[name].values) if name else {}
    assert asked == TrainingSettings.from_dict({"preset": name, **on_page}).to_dict()
    assert all(preset_reason(name)) == bool(name)


def test_bad_data_is_said_before_anything_starts(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"content": "a", "summaty": "b"}\n', encoding="utf-8")
    with pytest.raises(ChatGLMError, match="summary"):
        place.services.training.start(DataChoice(str(file)), {}, None)
    assert place.services.training.names() == ["my-run"]


def test_the_library_that_draws_diagrams_is_served_empty(place: Place) -> None:
    """Its name is Gradio's: where that changes, this says so."""

    (library,) = (Path(gradio.__file__).parent / "templates" / "frontend" / "assets").glob("mermaid.core-*.js")
    response = TestClient(Starlette(routes=routes(place.services))).get(f"/assets/{library.name}")
    assert response.status_code == 200 and len(response.content) < 100
    assert "javascript" in response.headers["content-type"]


def test_a_sentence_is_proposed_and_tried_before_any_training(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "model")
    rows = write_examples(tmp_path / "rows.json")
    places = places_for(tmp_path / "output", data=[tmp_path])
    services = build_services(ModelOptions(str(checkpoint), device="cpu"), tmp_path / "output", places)
    services.host.start()
    try:
        assert services.host.wait(60)
        data = DataChoice(str(rows))
        sentence = services.training.propose(data).sentence
        assert sentence == "请根据下面的商品属性写一段吸引人的广告文案。"
        trials = services.training.try_sentence(data, {"pre_seq_len": 8, "prefix_text": sentence})
        assert [trial.prompt for trial in trials] == [
            f"类型#{kind}*颜色#{c}色" for kind, c in zip(("上衣", "裤", "裙"), "红白黑", strict=True)
        ]
        assert trials[0].wanted in trials_html(trials, EN)
        assert not services.training.names(), "no run was started for it"
    finally:
        services.host.close()
        services.training.close()
