"""What the page shows is in its place, in the reader's language, and acts on nothing that was written into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from app.chat.conversation import PANES, Answer, Conversation
from app.chat.model_host import LoadingState
from app.chat.sources import LoadedSource, Source
from app.machine import Memory
from app.tabs.listening import say, warn
from app.text.languages import Speech
from app.training.run_view import RunView
from app.views.chat_view import chip_html, failed_chip_html, menu, shown_messages, source_mark
from app.views.checkpoint_table import checkpoint_table
from app.views.export import export_page
from app.views.fragments import loading_banner, sentence_html, status_line
from app.views.run_figures import retention_html, run_html
from app.views.watching.journal import journal_html
from chatglm2.errors import ChatGLMError
from training.runs.checkpoints import CheckpointInfo
from training.runs.events import (
    CheckpointEvent,
    MessageEvent,
    PhaseEvent,
    RetentionEvent,
    StartedEvent,
    StepEvent,
)
from training.runs.store import Status

EN, ZH = Speech("en"), Speech("zh")
BAD = "\"'><b onclick=x>&amp;</b>"
NOW = datetime(2025, 1, 2, 3, 4)


def source(name: str = "run", step: int = 40) -> Source:
    info = CheckpointInfo(
        path=Path(f"/{name}/checkpoint-{step}"),
        run_name=name,
        step=step,
        loss=1.5,
        pre_seq_len=8,
        prefix_projection=False,
        size_bytes=2048,
        created_at=time.time(),
        settings={"train_file": f"/data/{name}.json"},
    )
    return Source(str(info.path), info, of_run=True)


def run(**parts: Any) -> RunView:
    return replace(RunView("run", Status.FAILED), **parts)


def exported(conversation: Conversation) -> str:
    return export_page(conversation, settings={BAD: BAD}, model_name=BAD, now=NOW, stylesheet="", speech=EN)


def bad_conversation() -> Conversation:
    conversation = Conversation()
    entry = conversation.ask(BAD)
    entry.answers["left"] = Answer(BAD, source=BAD, finish_reason="stop")
    entry.answers["right"] = Answer(error=BAD)
    return conversation


def bad_retention() -> RetentionEvent:
    changed = {"prompt": BAD, "before": BAD, "after": BAD}
    return RetentionEvent(step=2, kept=50.0, prompts=2, unchanged=1, examples=[changed])


BAD_STATUS = status_line(device=BAD, memory=Memory(1, 1), model_name=BAD, context_tokens=None, training=BAD, speech=EN)
FRAGMENTS: dict[str, Callable[[], str]] = {
    "sentence": lambda: sentence_html(BAD),
    "log": lambda: journal_html([MessageEvent(en=BAD, zh=BAD)], BAD, EN),
    "status": lambda: BAD_STATUS,
    "loading": lambda: loading_banner(LoadingState("loading"), BAD, EN),
    "failed": lambda: loading_banner(LoadingState("failed", error=ChatGLMError(BAD, BAD)), BAD, EN),
    "chip": lambda: chip_html(LoadedSource(source(BAD)), BAD, EN, BAD),
    "failed chip": lambda: failed_chip_html(BAD),
    "table": lambda: checkpoint_table([source(BAD)], {}, EN),
    "run": lambda: run_html(run(message=(BAD, BAD)), EN),
    "retention": lambda: retention_html(run(retention=bad_retention()), EN),
    "export": lambda: exported(bad_conversation()),
}


class Page(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(page))  # of `Markup`, every piece would be escaped again

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", FRAGMENTS)
def test_what_is_written_into_a_fragment_is_shown_and_does_nothing(name: str) -> None:
    page = Page(FRAGMENTS[name]())
    assert not [attributes for _, attributes in page.tags if "onclick" in attributes]
    assert "<b onclick=x>&amp;" in page.text


def test_what_a_pane_shows_of_an_error_does_nothing() -> None:
    (_, shown) = shown_messages(bad_conversation(), "right", EN)
    assert "<" not in shown["content"] and "&#60;b onclick" in shown["content"]


@pytest.mark.parametrize("speak, event", [(say, "Info"), (warn, "Warning")])
def test_a_message_in_passing_does_nothing(
    speak: Callable[[str], None], event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(gr, event, heard.append)
    speak(BAD)
    assert "<" not in heard[0] and "&lt;b onclick" in heard[0]


def test_every_pane_shows_and_exports_its_own_answers() -> None:
    conversation = Conversation()
    entry = conversation.ask("q")
    for pane in PANES:
        entry.answers[pane] = Answer(f"said {pane}", source=f"by {pane}", finish_reason="stop")
        assert shown_messages(conversation, pane, EN)[1]["content"] == f"{source_mark(f'by {pane}')}said {pane}"
    text = Page(exported(conversation)).text
    places = [text.index(part) for part in ("by left", "said left", "by right", "said right")]
    assert places == sorted(places)


def test_the_table_says_which_pane_answers_with_a_checkpoint() -> None:
    mine, other = source("mine"), source("other")
    page = Page(checkpoint_table([mine, other], {"left": mine.key, "right": other.key}, EN))
    pressed = {(tag["data-key"], tag["data-action"]) for _, tag in page.tags if tag.get("aria-pressed") == "true"}
    assert pressed == {(mine.key, "left"), (other.key, "right")}


def test_the_menu_marks_the_newest() -> None:
    labels = [label for label, _ in menu([Source("base"), source("new"), source("old")], EN)]
    assert labels == [
        "Base model, no prefix",
        "Newest of the training (follows it)",
        "new / checkpoint-40 (newest)",
        "old / checkpoint-40",
    ]


def test_a_run_speaks_the_readers_language() -> None:
    view = run(message=("All done.", "完成。"))
    assert "All done." in run_html(view, EN) and "失败" not in run_html(view, EN)
    assert "完成。" in run_html(view, ZH) and "failed<" not in run_html(view, ZH)


def test_a_failed_load_speaks_the_readers_language() -> None:
    state = LoadingState("failed", error=ChatGLMError("No room.", "放不下。"))
    assert "No room." in loading_banner(state, "m", EN) and "放不下。" in loading_banner(state, "m", ZH)


def test_only_a_run_that_is_at_work_has_a_bar_that_moves() -> None:
    assert "waiting" in run_html(run(status=Status.STARTING), EN)
    for status in (Status.FAILED, Status.STOPPED, Status.INTERRUPTED):
        assert "waiting" not in run_html(run(status=status), EN)


def test_a_runs_log_speaks_the_readers_language_and_leaves_points_to_the_curves() -> None:
    events = [
        PhaseEvent(time=0, phase="loading"),
        StartedEvent(time=1, step=0, total_steps=40, examples=8, trainable_parameters=1, device="cpu"),
        StepEvent(
            time=2,
            step=1,
            total_steps=40,
            loss=1.0,
            learning_rate=0.1,
            gradient_norm=1.0,
            seconds_per_step=1.0,
            tokens_per_second=1.0,
            seconds_left=1.0,
        ),
        CheckpointEvent(time=3, step=40, name="checkpoint-40"),
        MessageEvent(time=4, en="Stopped early.", zh="提前停止。"),
    ]
    shown = str(journal_html(events, "", ZH))
    for line in ("正在加载模型", "在 cpu 上训练，从第 0 步起，共 40 步", "已保存 checkpoint-40", "提前停止。"):
        assert line in shown
    assert "Stopped early." not in shown and "technical" not in shown
    assert len(str(journal_html(events, "", EN)).partition("<pre>")[2].partition("</pre>")[0].splitlines()) == 4
