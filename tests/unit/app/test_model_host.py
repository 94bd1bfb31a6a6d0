"""The host of the model: an engine that breaks is started again, and what ends, ends for everybody."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from app import ending
from app.chat.conversation import Conversation
from app.chat.model_host import ModelHost, ModelOptions
from app.chat.service import ChatService, ChatSettings
from app.chat.sources import BASE
from app.services import Services, build_services
from app.text.languages import Speech
from app.views.fragments import loading_banner
from chatglm2.errors import EngineError, RequestError
from training.settings.samples import PROJECT_ROOT

SECONDS = 30.0
KEYS = {"left": BASE, "right": BASE}
SETTINGS = ChatSettings(1.0, 1.0, 0, 1.0, 200, seed=1, same_seed=True)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def services(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr("training.runs.launch.Standby.prepare", lambda _: None)
    services = build_services(ModelOptions(str(model_dir), device="cpu", slots=2), tmp_path)
    services.host.start()
    assert services.host.wait(SECONDS)
    yield services
    services.host.close()


def fail(*_: object) -> Any:
    raise RuntimeError("device-side assert triggered")


def break_engine(host: ModelHost) -> None:
    """What a GPU that has lost its context does: nothing works, clearing up neither."""
    engine: Any = host.session.engine
    engine._runner.decode = engine._cache.erase = fail


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def ask(chat: ChatService) -> Conversation:
    conversation = Conversation()
    conversation.ask("你好")
    for _ in chat.answer(conversation, 0, KEYS, SETTINGS, Speech("en")):
        pass
    return conversation


def test_a_broken_engine_is_said_to_be_and_another_one_answers_the_next_question(services: Services) -> None:
    broken = services.host.session
    break_engine(services.host)
    said = ask(services.chat).rounds[0].answers
    assert all("device-side assert" in answer.error for answer in said.values())
    wait_until(lambda: services.host.state.phase == "ready" and services.host.session is not broken)
    answers = ask(services.chat).rounds[0].answers.values()
    assert all(answer.text and not answer.error for answer in answers)


def test_while_the_engine_starts_again_the_page_says_so(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    may_start = threading.Event()
    start = services.host._start_engine
    monkeypatch.setattr(services.host, "_start_engine", lambda model: may_start.wait(SECONDS) and start(model))
    break_engine(services.host)
    ask(services.chat)
    wait_until(lambda: services.host.state.phase == "restarting")
    with pytest.raises(EngineError, match="being started again"):
        _ = services.host.session
    assert "being started again" in loading_banner(services.host.state, "tiny", Speech("en"))
    may_start.set()
    wait_until(lambda: services.host.state.phase == "ready")


def test_an_engine_that_cannot_be_started_again_has_failed_with_both_reasons(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> Any:
        raise RuntimeError("no context")

    monkeypatch.setattr(services.host, "_start_engine", refuse)
    break_engine(services.host)
    ask(services.chat)
    wait_until(lambda: services.host.state.phase == "failed")
    with pytest.raises(EngineError, match=r"Start the page again.*device-side assert.*no context"):
        _ = services.host.session


def test_a_model_that_arrives_when_the_page_has_ended_answers_nobody(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ModelHost(ModelOptions(str(model_dir), device="cpu"))
    build, may_build, built = host._build_session, threading.Event(), []

    def build_late() -> Any:
        may_build.wait(SECONDS)
        built.append(build())
        return built[0]

    monkeypatch.setattr(host, "_build_session", build_late)
    host.start()
    assert not host.close(0.01)
    may_build.set()
    assert host.close(SECONDS)
    assert built[0].engine.is_closed


def test_numbers_that_cannot_be_are_a_sentence_before_a_round_begins(services: Services) -> None:
    with pytest.raises(RequestError, match="top_k"):
        services.chat.check("你好", ChatSettings(1.0, 1.0, 2**70, 1.0, 20, seed=1, same_seed=True))


class StandInPage:
    """What is closed after the answers have ended."""

    def __init__(self, is_answering: Callable[[], bool]) -> None:
        self.server = SimpleNamespace(force_exit=False)
        self._is_answering = is_answering
        self.was_answering: bool | None = None

    def close(self, verbose: bool = True) -> None:
        self.was_answering = self._is_answering()


def test_answers_end_before_their_connections_do(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.setattr(ending, "_leave", lambda: left.append(True))
    monkeypatch.setattr(ending, "SENDING_SECONDS", 0.0)
    config = services.host.session.engine.model.config
    monkeypatch.setattr(config, "eos_token_id", None)  # no answer ends by itself
    conversation = Conversation()
    conversation.ask("你好")
    answers = services.chat.answer(conversation, 0, KEYS, SETTINGS, Speech("en"))
    next(answers)
    page = StandInPage(lambda: conversation.streaming)
    reader = threading.Thread(target=lambda: [None for _ in answers])
    reader.start()
    ending.end(page, services)  # type: ignore[arg-type]
    assert page.was_answering is False and not left
    reader.join(SECONDS)
    told = conversation.rounds[0].answers.values()  # a pane that had not begun is refused, in a sentence
    assert all(answer.finish_reason == "cancelled" or answer.error for answer in told)


ENDING = """
import os, signal, threading, time
from app.ending import set_alarm
from app.web.server import wait_for_signal

def ask_to_end():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask_to_end).start()
wait_for_signal()
set_alarm(0.2)
sum(range(10**12))  # nobody else has a turn meanwhile
"""


def test_a_page_that_is_asked_to_end_does_whatever_it_is_busy_with() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], cwd=PROJECT_ROOT, timeout=2 * SECONDS, check=False)
    assert ended.returncode == -signal.SIGALRM


def test_a_step_that_does_not_end_holds_no_process(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    may_go, entered = threading.Event(), threading.Event()

    def hang(*_: object) -> Any:
        entered.set()
        may_go.wait(SECONDS)
        raise RuntimeError("too late")

    monkeypatch.setattr(ending, "_leave", lambda: left.append(True))
    for name in ("SENDING_SECONDS", "PANE_SECONDS", "COMPUTING_SECONDS"):
        monkeypatch.setattr(ending, name, 0.01)
    services.host.session.engine._runner.prefill = hang  # type: ignore[method-assign]
    reader = threading.Thread(target=ask, args=[services.chat])
    reader.start()
    assert entered.wait(SECONDS)
    ending.end(StandInPage(lambda: False), services)  # type: ignore[arg-type]
    assert left
    may_go.set()
    reader.join(SECONDS)
