"""The page as a whole: title, status line, four tabs, one clock that tells all of them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.machine import describe_device, missing_gpu, read_memory
from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.checkpoints import CheckpointsTab
from app.tabs.clock import Clock
from app.tabs.compare import CompareTab
from app.tabs.evaluate import EvaluateTab
from app.tabs.listening import QUIET
from app.tabs.train import COMPARE_TAB, TRAIN_TAB, TrainTab
from app.tabs.training.kept import KeptLooks
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.fragments import loading_banner, status_line
from app.views.theme import page_scripts
from training.runs.store import Status

CLEAN_EVERY_SECONDS, KEEP_SECONDS = 3600, 86400


def build_interface(services: Services) -> gr.Blocks:
    """The page on ``services``; loads nothing and starts nothing."""
    demo = gr.Blocks(
        title="ChatGLM2 P-Tuning",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY_SECONDS, KEEP_SECONDS),
    )
    with demo:
        with gr.Row(elem_id="header"):
            gr.Markdown(word("heading"), elem_id="heading")
            language = gr.Button(word("switch_language"), size="sm", scale=0, min_width=90, elem_id="language")
            sign_out = gr.Button(word("sign_out"), size="sm", scale=0, min_width=80, visible=False, elem_id="sign-out")
            theme = gr.Button(word("switch_theme"), size="sm", scale=0, min_width=110, elem_id="theme")
        status, banner = gr.HTML(elem_id="status"), gr.HTML(elem_id="banner")
        kept_looks = KeptLooks()
        kept_form = gr.BrowserState(None, storage_key="chatglm-evaluation", secret="chatglm")
        with gr.Tabs(selected=COMPARE_TAB, elem_id="tabs") as tabs:
            with gr.Tab(word("tab_compare"), id=COMPARE_TAB):
                compare = CompareTab(services)
            with gr.Tab(word("tab_train"), id=TRAIN_TAB):
                train = TrainTab(services, kept_looks)
            with gr.Tab(word("tab_evaluate"), id="evaluate"):
                evaluate = EvaluateTab(services, kept_form)
            with gr.Tab(word("tab_checkpoints"), id="checkpoints"):
                checkpoints = CheckpointsTab(services)
        clock = Clock(lambda: _is_busy(services))
        told = gr.State(("", ""))

        @open_to_all
        def on_tick(told: tuple[str, str], request: gr.Request) -> Any:
            speech = speech_for(request)
            news = (
                str(_status(services, speech)),
                str(loading_banner(services.host.state, services.host.options.name, speech)),
            )
            return gr.skip() if news == told else (*news, news)

        @open_to_all
        def on_arrival(request: gr.Request) -> Any:
            return gr.Button(visible=visitor_of(request).signed_in)

        @open_to_all
        def on_to_training() -> Any:
            return gr.Tabs(selected=TRAIN_TAB)

        compare.to_training.click(on_to_training, None, [tabs], **QUIET)
        sign_out.click(None, None, None, js="() => window.signOut()", **QUIET)
        demo.load(on_arrival, None, [sign_out], **QUIET)
        language.click(None, None, None, js="() => window.switchLanguage()", **QUIET)
        theme.click(None, None, None, js="() => window.switchTheme()", **QUIET)
        for script in page_scripts():
            demo.load(None, None, None, js=script)
        demo.load(on_tick, [told], [status, banner, told], **QUIET)
        clock.tick(on_tick, [told], [status, banner, told], **QUIET)
        compare.bind(demo, clock)
        train.bind(demo, clock, compare, tabs)
        evaluate.bind(demo, clock, compare, tabs)
        checkpoints.bind(demo, clock, compare)
        clock.bind()
        demo.queue(api_open=False, default_concurrency_limit=8)
    return demo


def _is_busy(services: Services) -> bool:
    """Whether something moves on its own: the model arrives, a run trains, checkpoints are evaluated."""
    if services.training.active() is not None or services.host.state.phase not in ("ready", "failed"):
        return True
    return services.evaluation.is_active()


def _status(services: Services, speech: Speech) -> str:
    device, context = services.host.device, services.host.context_tokens
    described = describe_device(device) if device else "—"
    missing = missing_gpu(device) if device else None
    return status_line(
        device=f"{described} · {speech(missing)}" if missing else described,
        memory=read_memory(device or "cpu"),
        model_name=services.host.options.name,
        context_tokens=context,
        training=_training_now(services, speech),
        speech=speech,
    )


def _training_now(services: Services, speech: Speech) -> str:
    view = services.training.active()
    if view is None:
        return speech("nothing_training")
    if view.status == Status.STARTING or not view.total_steps:
        return speech("training_starting", run=view.name)
    return speech("training_now", run=view.name, step=view.step, total=view.total_steps)
