"""The page as a whole: title, status line, four tabs, one clock."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.machine import describe_device, missing_gpu, read_memory
from app.services import Services
from app.tabs.access import open_to_all, visitor_of
from app.tabs.checkpoints import CheckpointsTab
from app.tabs.compare import CompareTab
from app.tabs.evaluate import EvaluateTab
from app.tabs.listening import QUIET
from app.tabs.train import COMPARE_TAB, TRAIN_TAB, TrainTab
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.fragments import loading_banner, status_line
from app.views.theme import page_script
from training.runs.store import Status

CLOCK_SECONDS = 1.0
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
        kept_form = gr.BrowserState(None, storage_key="chatglm-evaluation", secret="chatglm")
        with gr.Tabs(selected=COMPARE_TAB, elem_id="tabs") as tabs:
            with gr.Tab(word("tab_compare"), id=COMPARE_TAB):
                compare = CompareTab(services)
            with gr.Tab(word("tab_train"), id=TRAIN_TAB):
                train = TrainTab(services)
            with gr.Tab(word("tab_evaluate"), id="evaluate"):
                evaluate = EvaluateTab(services, kept_form)
            with gr.Tab(word("tab_checkpoints"), id="checkpoints"):
                checkpoints = CheckpointsTab(services)
        timer = gr.Timer(CLOCK_SECONDS)

        @open_to_all
        def on_tick(request: gr.Request) -> tuple[str, str]:
            speech = speech_for(request)
            return _status(services, speech), loading_banner(services.host.state, services.host.options.name, speech)

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
        demo.load(None, None, None, js=page_script())
        demo.load(on_tick, None, [status, banner], **QUIET)
        timer.tick(on_tick, None, [status, banner], **QUIET)
        compare.bind(demo, timer)
        train.bind(demo, timer, compare, tabs)
        evaluate.bind(demo, timer, compare, tabs)
        checkpoints.bind(demo, timer, compare)
        demo.queue(api_open=False, default_concurrency_limit=8)
    return demo


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
