"""What handlers answer, without a browser: each in its reader's language, and the same after a reload."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import psutil
import pytest
from past_runs import write_past_run

from app.__main__ import find_shown
from app.chat.conversation import INTERRUPTED, PANES, Answer, Conversation
from app.chat.following import NEWEST
from app.chat.model_host import ModelHost
from app.chat.sources import BASE
from app.places import places_for
from app.services import Services, build_services
from app.tabs.compare import CompareTab
from app.tabs.train import TrainTab, Viewer
from app.tabs.training.form import UPLOAD
from app.tabs.training.kept import KeptLooks
from app.tabs.translations import speech_for
from app.text.languages import LANGUAGE_COOKIE, Speech
from app.views.chat_view import answer_facts, shown_messages
from chatglm2.errors import RunError
from training.runs.checkpoints import METADATA_FILE, STRENGTH_FILE
from training.runs.store import RunStore, Status


def request(language: str = "en") -> Any:
    return SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={})


def opened(compare: CompareTab, saved: Any = None, choice: Any = None, heard: Any = None) -> dict[Any, Any]:
    """What a browser that kept these is sent when it opens the page, and the session's own values."""
    values = session_of(compare, saved, choice, heard)
    return values | compare.on_load(values, request())


def session_of(compare: CompareTab, saved: Any = None, choice: Any = None, heard: Any = None) -> dict[Any, Any]:
    kept = {compare.saved: saved, compare.kept_choice: choice, compare.heard: heard, compare.looking.kept: None}
    return {compare.conversation: Conversation(), compare.chosen: dict.fromkeys(PANES, BASE), **kept}


@pytest.fixture
def services(host: ModelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Services on the loaded model, with two runs that are over: ``old`` and, after it, ``new``."""
    services = build_services(host.options, tmp_path, places_for(tmp_path, data=[tmp_path]))
    monkeypatch.setattr(services.host, "_session", host.session)
    for name in ("old", "new"):
        write_past_run(tmp_path, Path(host.options.path), name)
    return services


@pytest.fixture
def train(services: Services, page: gr.Blocks) -> TrainTab:
    return TrainTab(services, KeptLooks())


@pytest.fixture
def compare(services: Services, page: gr.Blocks) -> CompareTab:
    return CompareTab(services)


def form_of(train: TrainTab, filled: dict[str, Any] | None = None, **typed: Any) -> dict[Any, Any]:
    """What the form's handlers are given: what the page filled in, but for what somebody typed."""
    values = train.filled.value | (filled or {})
    shown = {train.form[name]: typed.get(name, values.get(name)) for name in (*values, "preset")}
    return {**shown, train.filled: values}


def test_keeping_most_raises_the_steps_that_nobody_chose(train: TrainTab) -> None:
    steps = train.form["max_steps"]
    raised = train.on_keep(form_of(train, keep=1.0))
    assert raised[steps] == 240
    assert train.on_keep(form_of(train, raised[train.filled], keep=0.5))[steps] == 100
    for typed in ({"max_steps": 70}, {"preset": "adgen", "max_steps": 3000}):
        assert train.on_keep(form_of(train, keep=1.0, **typed))[steps] == gr.skip()
    preset = train.on_preset(form_of(train, preset="adgen", keep=1.0), request())
    assert preset[steps] == 3000
    back = train.on_preset(form_of(train, preset[train.filled], preset="", keep=1.0), request())
    assert back[steps] == 240


def test_a_request_is_answered_in_its_language() -> None:
    assert speech_for(request("zh")).language == "zh"
    assert speech_for(request("en")).language == "en"


@pytest.mark.parametrize(("language", "status"), [("en", "finished"), ("zh", "已完成")])
def test_a_run_is_shown_in_the_readers_language(train: TrainTab, language: str, status: str) -> None:
    assert f">{status}<" in train.on_tick(Viewer(), request(language))[train.progress]


def test_a_viewer_follows_the_newest_run_until_another_is_picked(train: TrainTab) -> None:
    assert train.on_tick(Viewer(), request())[train.viewer].shown == "new"
    picked = train.on_pick("old", request())[train.viewer]
    assert picked.shown == "old"
    assert train.on_tick(Viewer(picked="old"), request())[train.viewer].shown == "old"


def test_a_viewer_is_sent_what_changed_and_nothing_else(train: TrainTab, services: Services, tmp_path: Path) -> None:
    seen = train.on_tick(Viewer(), request())[train.viewer]
    assert list(train.on_tick(seen, request())) == [train.viewer]
    RunStore(tmp_path).get("new").update(status=Status.FAILED)
    assert ">failed<" in train.on_tick(seen, request())[train.progress]


def test_a_reload_brings_the_conversation_back_and_the_newest_checkpoint(
    compare: CompareTab, services: Services
) -> None:
    conversation = Conversation()
    entry = conversation.ask("q")
    entry.answers["left"], entry.answers["right"] = Answer("of left"), Answer("of right")
    updates = opened(compare, conversation.to_dict())
    for name, pane in compare.panes.items():
        assert updates[pane.chat][-1]["content"] == f"of {name}"
    chosen = updates[compare.chosen]
    assert chosen["left"] == BASE
    assert Path(chosen["right"]).name == "checkpoint-40" and Path(chosen["right"]).parent.name == "new"


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_what_others_train_changes_no_pane_of_a_browser_that_has_compared(
    compare: CompareTab, services: Services, tmp_path: Path
) -> None:
    first = opened(compare)[compare.kept_choice]
    write_past_run(tmp_path, Path(services.host.options.path), "of a stranger".replace(" ", "-"))
    services.sources.look_again()
    assert compare.on_tick((), dict(first), "", "", request())[compare.chosen] == first
    assert opened(compare, choice=first)[compare.chosen] == first
    chosen = dict(first)
    updates = compare.choose("right", BASE, chosen, speech_for(request()))
    assert updates[compare.kept_choice] == {"left": BASE, "right": BASE}
    assert opened(compare, choice=updates[compare.kept_choice])[compare.chosen]["right"] == BASE


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_what_the_page_was_started_with_stands_in_the_right_pane_until_somebody_chooses(
    compare: CompareTab, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_before = {"left": BASE, "right": BASE}
    elsewhere = tmp_path / "elsewhere" / "checkpoint-3000"
    trained = RunStore(tmp_path).get("old").checkpoint_path(40)
    shutil.copytree(trained, elsewhere)
    monkeypatch.setattr(services.sources, "_shown", find_shown(elsewhere, None))
    services.sources.look_again()
    for stored in (None, kept_before):
        updates = opened(compare, choice=stored)
        assert updates[compare.chosen] == {"left": BASE, "right": str(elsewhere)}
    chosen = dict(updates[compare.chosen])
    kept = compare.choose("right", BASE, chosen, speech_for(request()))[compare.kept_choice]
    assert opened(compare, choice=kept)[compare.chosen]["right"] == BASE
    with pytest.raises(RunError, match="without --ptuning_checkpoint"):
        services.sources.delete(str(elsewhere))


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_a_prefix_that_was_trained_with_other_angles_says_so_where_it_is_chosen(
    compare: CompareTab, tmp_path: Path
) -> None:
    place = RunStore(tmp_path).get("old").checkpoint_path(40)
    note = "rotary angles in float16; here they are in float32. To use its own, start with --rope-precision reference"
    for angles, is_said in (("float32", False), ("float16", True)):
        known = json.loads((place / METADATA_FILE).read_text(encoding="utf-8"))
        (place / METADATA_FILE).write_text(json.dumps({**known, "rotary_angles": angles}), encoding="utf-8")
        compare.services.sources.look_again()
        updates = compare.choose("right", str(place), {"left": BASE, "right": BASE}, speech_for(request()))
        assert (note in updates[compare.panes["right"].head]) is is_said
    updates = compare.choose("right", str(place), {"left": BASE, "right": BASE}, speech_for(request("zh")))
    assert "训练时旋转角以 float16 计算" in updates[compare.panes["right"].head]


@pytest.mark.parametrize("stored", [3, [], {"left": BASE}, {"left": 1, "right": 2}, "x"], ids=str)
def test_a_browsers_store_that_holds_something_else_counts_as_empty(compare: CompareTab, stored: object) -> None:
    assert Path(opened(compare, choice=stored)[compare.chosen]["right"]).parent.name == "new"


def test_a_kept_checkpoint_that_is_gone_gives_its_pane_back_to_the_base(compare: CompareTab) -> None:
    updates = opened(compare, choice={"left": BASE, "right": "/gone/checkpoint-3"})
    assert updates[compare.chosen]["right"] == BASE
    assert "The checkpoint was deleted" in updates[compare.panes["right"].head]


def test_an_answer_that_a_reload_cut_off_is_there_again(compare: CompareTab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tabs.compare.KEEP_SECONDS", 0.0)
    mixers = [part for pane in compare.panes.values() for part in pane.mixer.inputs]
    values = {part: part.value for part in (*compare.settings.values(), *mixers)}
    values |= session_of(compare)
    asking = compare._ask(values, "你好，介绍一下你自己", request())
    kept: dict[Any, Any] = {}
    for updates in asking:
        kept |= {part: updates[part] for part in (compare.saved, compare.heard) if part in updates}
        if (kept.get(compare.heard) or {}).get("answers", {}).get("left", {}).get("text"):
            break
    asking.close()  # the tab is gone
    heard = kept[compare.heard]["answers"]["left"]["text"]
    assert kept[compare.saved]["rounds"][-1]["answers"]["left"]["text"] == ""
    updates = opened(compare, kept[compare.saved], heard=kept[compare.heard])
    last = updates[compare.conversation].rounds[-1].answers["left"]
    assert (last.text, last.finish_reason) == (heard, INTERRUPTED)
    assert "“Retry”" in updates[compare.panes["left"].facts]


# Outside of an event Gradio takes an update of a menu for a new menu, one without choices.
@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_compare_now_loads_the_offered_checkpoint_into_the_right_pane(
    train: TrainTab, compare: CompareTab, tmp_path: Path
) -> None:
    train.compare_tab, train.tabs = compare, gr.Tabs(render=False)
    chosen = {"left": BASE, "right": BASE}
    updates = train.on_compare("old", chosen, request())
    assert chosen == {"left": BASE, "right": str(tmp_path / "old" / "checkpoint-40")}
    assert "old · step 40" in updates[compare.panes["right"].head]


def test_a_deleted_checkpoint_gives_its_pane_back_to_the_base(
    compare: CompareTab, services: Services, tmp_path: Path
) -> None:
    gone = {"left": "/deleted/checkpoint-1", "right": BASE}
    updates = compare.on_tick((), gone, "/deleted/checkpoint-2", str(tmp_path / "old" / "checkpoint-20"), request("zh"))
    kept = [updates[pane.mixer.second].value for pane in compare.panes.values()]
    assert kept == ["", str(tmp_path / "old" / "checkpoint-20")]
    assert updates[compare.chosen] == {"left": BASE, "right": BASE}
    assert "检查点已被删除" in updates[compare.panes["left"].head]


def mix_values(compare: CompareTab, conversation: Conversation, chosen: dict[str, str], **right: Any) -> dict[Any, Any]:
    """What the page sends when something under the right pane was changed."""
    values = {component: component.value for component in compare.settings.values()}
    for name, pane in compare.panes.items():
        own = {"strength": 1.0, "second": "", "second_strength": 1.0} | (right if name == "right" else {})
        values |= {getattr(pane.mixer, part): value for part, value in own.items()}
    conversation.begun = True
    spoken = {compare.message: "", compare.conversation: conversation, compare.chosen: chosen}
    return values | session_of(compare) | spoken


def test_a_strength_answers_the_last_question_again_in_its_pane_with_the_same_dice(
    compare: CompareTab, tmp_path: Path
) -> None:
    conversation, chosen = Conversation(), {"left": BASE, "right": str(tmp_path / "old" / "checkpoint-40")}
    for question in ("你好", "你是谁？"):
        values = mix_values(compare, conversation, chosen) | {compare.message: question}
        list(compare.on_send(values, request()))
    first, before = (dict(entry.answers) for entry in conversation.rounds)
    handler = compare.on_mix("right")
    list(handler(mix_values(compare, conversation, chosen, strength=0.35), request()))
    after = conversation.rounds[1].answers
    assert conversation.rounds[0].answers == first and after["left"] is before["left"]
    assert (after["right"].seed, after["right"].strengths) == (before["right"].seed, [0.35])
    assert after["right"].source == before["right"].source + " · strength 0.35"
    assert "强度 0.35" in answer_facts(after["right"], Speech("zh"))
    conversation.streaming = True
    assert list(handler(mix_values(compare, conversation, chosen, strength=1), request())) == []


def test_stop_takes_effect_however_early_it_is_pressed_and_is_shown_at_once(
    compare: CompareTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare.services.host.session.engine.model.config, "eos_token_id", None)
    conversation = Conversation()
    values = mix_values(compare, conversation, dict.fromkeys(("left", "right"), BASE)) | {compare.message: "你好"}
    answering = compare.on_send(values, request())
    while compare.composer.stop not in (updates := next(answering)):
        pass
    assert updates[compare.composer.stop].visible and updates[compare.composer.stop].interactive
    stopping = asyncio.run(compare.on_stop(conversation))
    assert "stopping" in str(stopping.value) and not stopping.interactive
    *_, last = answering
    assert not last[compare.composer.stop].visible
    assert {answer.finish_reason for answer in conversation.rounds[0].answers.values()} == {"cancelled"}
    asyncio.run(compare.on_stop(conversation))  # too late for that answer, and not meant for the next one
    again = compare.on_send(values, request())
    while not conversation.streaming:
        next(again)
    assert not conversation.stop_requested
    again.close()


@pytest.mark.parametrize(
    ("language", "said"), [("en", ("2 answers come before", "this one is next")), ("zh", ("前面还有 2 条", "下一条"))]
)
def test_a_pane_says_what_it_waits_for(language: str, said: tuple[str, str]) -> None:
    conversation = Conversation(streaming=True)
    answer = conversation.ask("你好").answers["left"]
    shown = []
    for place in (3, 1, 0):
        answer.place_in_line = place
        shown.append(shown_messages(conversation, "left", Speech(language))[-1]["content"])
    assert said[0] in shown[0] and said[1] in shown[1] and shown[2] == "…"
    answer.text, answer.place_in_line = "word", 0
    assert shown_messages(conversation, "left", Speech(language))[-1]["content"] == "word"


def test_a_message_that_cannot_begin_says_so(compare: CompareTab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(asyncio.run(compare.on_begin(request()))) == 1
    monkeypatch.setattr(compare.services.chat, "_answering", 64)
    for language, said in (("en", "64 conversations are being answered"), ("zh", "已有 64 个对话")):
        told = asyncio.run(compare.on_begin(request(language)))
        assert [said in told[pane.facts] for pane in compare.panes.values()] == [True, True]


def test_at_strength_0_a_checkpoint_gives_the_base_models_answer(compare: CompareTab, tmp_path: Path) -> None:
    conversation, chosen = Conversation(), {"left": BASE, "right": str(tmp_path / "old" / "checkpoint-40")}
    values = mix_values(compare, conversation, chosen, strength=0.0) | {compare.message: "你好"}
    list(compare.on_send(values, request()))
    answers = conversation.rounds[0].answers
    assert answers["left"].text == answers["right"].text != ""


def test_two_prefixes_answer_together_and_a_deleted_one_says_so(compare: CompareTab, tmp_path: Path) -> None:
    conversation, chosen = Conversation(), {"left": BASE, "right": str(tmp_path / "old" / "checkpoint-40")}
    other = str(tmp_path / "new" / "checkpoint-40")
    values = mix_values(compare, conversation, chosen, second=other, second_strength=0.5) | {compare.message: "你好"}
    list(compare.on_send(values, request()))
    right = conversation.rounds[0].answers["right"]
    assert right.strengths == [1.0, 0.5] and right.source.startswith("old · step 40") and " + new · " in right.source
    list(compare.on_mix("right")(mix_values(compare, conversation, chosen, second="/gone"), request("zh")))
    assert "找不到检查点" in conversation.rounds[0].answers["right"].error


# Outside of an event Gradio takes an update of a menu for a new menu, one without choices.
@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_another_checkpoint_begins_as_it_was_trained(compare: CompareTab, tmp_path: Path) -> None:
    (tmp_path / "new" / "checkpoint-40" / STRENGTH_FILE).write_text('{"proposed": 0.5}')
    mixer, chosen = compare.panes["right"].mixer, {"left": BASE, "right": BASE}
    updates = compare.choose("right", str(tmp_path / "old" / "checkpoint-40"), chosen, speech_for(request()))
    assert (updates[mixer.row].visible, updates[mixer.strength].value, updates[mixer.second].value) == (True, 1, "")
    assert updates[mixer.strength].label == "Strength"
    updates = compare.choose("right", str(tmp_path / "new" / "checkpoint-40"), chosen, speech_for(request("zh")))
    assert updates[mixer.strength].label == "强度（建议 0.5）"
    assert not compare.choose("right", BASE, chosen, speech_for(request()))[mixer.row].visible


# Outside of an event Gradio takes an update of a menu for a new menu, one without choices.
@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")
def test_a_pane_follows_the_training_over_a_refresh_until_something_else_is_chosen(
    compare: CompareTab, tmp_path: Path
) -> None:
    menu, head, speech = compare.panes["left"].choice, compare.panes["left"].head, speech_for(request())
    chosen = {"left": BASE, "right": BASE}
    updates = compare.choose("left", NEWEST, chosen, speech)
    assert updates[menu].value == NEWEST and chosen["left"] == str(tmp_path / "new" / "checkpoint-40")
    shutil.copytree(tmp_path / "new" / "checkpoint-40", tmp_path / "new" / "checkpoint-60")
    described = tmp_path / "new" / "checkpoint-60" / METADATA_FILE
    described.write_text(json.dumps(json.loads(described.read_text()) | {"step": 60, "created_at": time.time() + 9}))
    compare.services.sources.look_again()
    ticked = compare.on_tick((), chosen, "", "", request())
    assert chosen["left"].endswith("checkpoint-60") and chosen["right"] == BASE
    assert "step 60" in ticked[head] and ticked[menu].value == NEWEST
    conversation = Conversation()
    values = mix_values(compare, conversation, chosen) | {
        compare.message: "你好",
        compare.settings["max_new_tokens"]: 1,
    }
    list(compare.on_send(values, request()))
    assert "step 60" in conversation.rounds[0].answers["left"].source
    refreshed = opened(compare, choice=ticked[compare.kept_choice] | {"left": str(tmp_path / "new" / "checkpoint-20")})
    assert "step 60" in refreshed[head] and refreshed[menu].value == NEWEST
    compare.choose("left", BASE, chosen, speech)
    assert compare.on_tick((), chosen, "", "", request())[menu].value == BASE


def test_what_a_data_file_holds_is_shown_and_does_nothing(train: TrainTab, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"content": "<b onclick=x>", "summary": "b"}\n{"content": "<u>"\n', encoding="utf-8")
    values = {component: component.value for component in (*train.form.values(), *train.columns.values())}
    values |= {train.source: UPLOAD, train.file: str(file)}
    updates = train.on_preview(values, request())
    rows, findings = updates[train.data.rows], updates[train.data.findings]
    assert "&lt;b onclick=x&gt;" in rows and "<b onclick" not in rows
    assert "&lt;u&gt;" in findings and "<u>" not in findings


def form_values(train: TrainTab, **changes: Any) -> dict[Any, Any]:
    """What a browser sends of the data and the form as they are first shown, with ``changes`` by setting."""
    components = {train.source, train.file, *train.columns.values(), *train.form.values(), train.name, train.pins}
    values = {component: component.value for component in components}
    return values | {train.form[name]: value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("s a step", "In all", "that are free", "Chat meanwhile")),
        ("zh", ("每步", "总计", "可用", "训练时的对话")),
    ],
)
def test_what_a_run_costs_is_there_before_the_click(train: TrainTab, language: str, words: tuple[str, ...]) -> None:
    shown = train.on_cost(form_values(train), request(language))
    assert all(word in shown[train.cost] for word in words)
    assert not shown[train.fit].visible and shown[train.changes] == {}
    longer = train.on_cost(form_values(train, max_steps=40_000, share="even"), request(language))
    assert longer[train.cost] != shown[train.cost]


def test_a_run_that_does_not_fit_is_refused_and_one_button_makes_the_form_fit(
    train: TrainTab, services: Services, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_engine(services), "lendable_bytes", lambda: 200 * 2**20)
    values = form_values(train, max_source_length=32768, max_target_length=32768)
    refused = train.on_start(values, request())
    assert "This training needs" in said[-1] and "This training needs" in refused[train.cost]
    assert services.training.names() == ["new", "old"]
    assert refused[train.fit].visible and refused[train.changes]["max_source_length"] < 32768
    filled = train.on_fit(refused[train.changes], request("zh"))
    fitting = {name: filled[train.form[name]] for name in refused[train.changes]}
    again = train.on_cost(values | {train.form[name]: value for name, value in fitting.items()}, request())
    assert not again[train.fit].visible and "This training needs" not in again[train.cost]


def host_engine(services: Services) -> Any:
    return services.host.session.engine


def test_the_cost_is_asked_for_anew_when_a_run_begins_or_the_model_is_ready(
    train: TrainTab, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = train.on_cost_key("")
    assert key and train.on_cost_key(key) == gr.skip()
    monkeypatch.setattr(services.host, "_session", None)
    assert train.on_cost_key(key) == ""


def test_a_part_of_a_step_is_refused_and_not_rounded(train: TrainTab, said: list[str]) -> None:
    steps = train.form["max_steps"]
    train.on_start(form_values(train, max_steps=steps.preprocess(1.5)), request())
    assert "“Steps” must be a whole number" in said[-1] and "1.5" in said[-1]


@pytest.mark.parametrize("share", ["even", "training-first", "chat-first"])
def test_who_goes_first_is_changed_while_a_run_trains(
    train: TrainTab, services: Services, tmp_path: Path, share: str
) -> None:
    run = RunStore(tmp_path).get("new")
    alive = psutil.Process()
    run.update(status=Status.RUNNING, pid=alive.pid, pid_started_at=alive.create_time() - psutil.boot_time())
    shown = train.on_share("new", share, request())
    assert run.share() == share == shown[train.share].value and shown[train.share].visible


def test_who_goes_first_is_no_question_once_a_run_is_over(train: TrainTab, said: list[str]) -> None:
    shown = train.on_share("new", "even", request())
    assert "new is not being trained" in said[-1]
    assert not shown[train.share].visible


def test_a_message_that_comes_before_the_pages_load_event_is_answered_and_kept(compare: CompareTab) -> None:
    """On a busy machine people type faster than the page loads; the newest checkpoint answers, not the base twice."""
    earlier = Conversation()
    earlier.ask("before").answers["right"].text = "said before"
    mixers = [part for pane in compare.panes.values() for part in pane.mixer.inputs]
    values = {part: part.value for part in (*compare.settings.values(), *mixers)}
    values |= session_of(compare, earlier.to_dict())
    asking = compare._ask(values, "你好", request())
    next(asking)
    loaded = compare.on_load(values, request())
    for _ in asking:
        pass
    assert [entry.question for entry in values[compare.conversation].rounds] == ["before", "你好"]
    assert "new" in values[compare.conversation].rounds[-1].answers["right"].source
    assert loaded[compare.panes["left"].chat][-1]["content"] == "你好"
