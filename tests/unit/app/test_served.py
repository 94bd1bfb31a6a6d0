"""A training is by default on what the page serves: the model's own values, its precision, quantization and device."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
import pytest
from sharing_process import Sharer
from tiny_checkpoint import write_examples, write_tiny_checkpoint

from app.chat.model_host import ModelOptions
from app.places import places_for
from app.services import Services, build_services
from app.tabs.train import TrainTab
from app.tabs.training.kept import KeptLooks
from app.text.languages import Speech
from app.training.form import preset_values
from app.training.served import ALL_WEIGHTS, LEARNS, PREFIX, TunedModel, trainer_environment
from app.training.service import DataChoice
from app.views.run_figures import run_html
from chatglm2 import load_model, load_tokenizer
from chatglm2.errors import RunError
from training.runs.events import PHASE_WORDS, MessageEvent, Phase, PhaseEvent, StartedEvent, StepEvent
from training.runs.launch import Standby
from training.runs.store import Run, Status
from training.settings.samples import DEMO_MODEL
from training.settings.train import FULL_LEARNING_RATE, TrainingSettings

EN, ZH = Speech("en"), Speech("zh")
# 4 bits want whole groups of columns.
SHAPE: dict[str, Any] = {"hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "kv_channels": 16}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("served") / "model", **SHAPE)


@pytest.fixture
def services(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """A page that serves the checkpoint in 4 bits; clicks start nothing."""
    monkeypatch.setattr("training.runs.process.start", lambda run, begin: None)
    monkeypatch.setattr(Standby, "prepare", lambda self: None)
    services = build_services(
        ModelOptions(str(checkpoint), device="cpu", quantization_bit=4, slots=2),
        tmp_path,
        places_for(tmp_path, [tmp_path]),
    )
    services.host.start()
    assert services.host.wait(60) and services.host.state.phase == "ready", services.host.state.error
    yield services
    services.host.close()


@pytest.fixture
def data(tmp_path: Path) -> DataChoice:
    return DataChoice(str(write_examples(tmp_path / "rows.json")))


def served(path: Path | str, model_path: Path) -> TunedModel:
    model = load_model(model_path, device="cpu", dtype="float32")
    return TunedModel(
        str(path), "huggingface", lambda: load_tokenizer(model_path), lambda: model, lambda: pytest.fail("asked")
    )


# Precision, quantization, device


@pytest.mark.parametrize("form", [{}, {"dtype": "auto", "device": "auto", "quantization_bit": ""}])
def test_what_a_form_leaves_open_is_the_pages(services: Services, data: DataChoice, form: dict[str, Any]) -> None:
    settings = services.training.start(data, form, "run").settings()
    assert (settings.dtype, settings.device, settings.quantization_bit) == ("bfloat16", "cpu", 4)


def test_what_a_form_says_wins_over_the_page(services: Services, data: DataChoice) -> None:
    form = {"dtype": "float32", "quantization_bit": 8}
    settings = services.training.start(data, form, "run").settings()
    assert (settings.dtype, settings.quantization_bit) == ("float32", 8)
    unquantized = services.training.start(data, {"quantization_bit": "none"}, "unquantized").settings()
    assert unquantized.quantization_bit is None


def test_a_trainer_maps_the_weights_that_the_page_holds(services: Services, data: DataChoice) -> None:
    settings = services.training.start(data, {}, "run").settings()
    options = {name: getattr(settings, name) for name in ("dtype", "device", "quantization_bit")}
    trainer = Sharer(Path(settings.model_name_or_path), dict(os.environ), **options)
    try:
        assert trainer.facts()["mapped"]
    finally:
        trainer.kill()


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("cpu", "", {}), (None, "", {}), ("cuda:1", "", "1"), ("cuda:1", "3,5", "5"), ("cuda:0", "GPU-ab", "GPU-ab")],
)
def test_the_trainer_sees_the_pages_gpu_only(
    device: str | None, visible: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert trainer_environment(device) == ({"CUDA_VISIBLE_DEVICES": expected} if expected else {})


# Defaults


def test_defaults_come_from_the_model_that_is_served(checkpoint: Path) -> None:
    demo = TrainingSettings.from_dict(served(DEMO_MODEL, checkpoint).settings({}))
    assert (demo.pre_seq_len, demo.learning_rate, demo.max_steps, demo.gradient_accumulation_steps) == (
        16,
        5e-2,
        100,
        1,
    )
    other = TrainingSettings.from_dict(served("THUDM/chatglm2-6b", checkpoint).settings({}))
    assert (other.pre_seq_len, other.learning_rate, other.max_steps) == (128, 2e-2, 3000)
    assert (other.per_device_train_batch_size, other.gradient_accumulation_steps) == (1, 16)
    assert (other.max_source_length, other.max_target_length) == (64, 128)


def test_a_preset_wins_over_the_models_defaults_and_a_form_over_both(checkpoint: Path) -> None:
    model = served("THUDM/chatglm2-6b", checkpoint)
    gentle = TrainingSettings.from_dict(model.settings({"preset": "gentle", "max_steps": 7}))
    assert (gentle.keep, gentle.max_steps, gentle.pre_seq_len) == (1.0, 7, 128)
    assert preset_values("", model.defaults)["max_steps"] == 3000
    assert preset_values("gentle", model.defaults)["pre_seq_len"] == 128


@pytest.mark.parametrize("preset", ["", "adgen", "chat"])
def test_the_page_has_a_checkpoint_to_try_long_before_the_originals_first(checkpoint: Path, preset: str) -> None:
    model = served("THUDM/chatglm2-6b", checkpoint)
    assert preset_values(preset, model.defaults)["save_steps"] == 100
    assert TrainingSettings.from_dict(model.settings({"preset": preset or None})).save_steps == 100
    assert TrainingSettings.from_dict(model.settings({"preset": preset or None, "save_steps": 700})).save_steps == 700
    assert TrainingSettings.from_dict({"preset": "adgen"}).save_steps == 1000  # scripts are the original's


async def build_form(services: Services) -> dict[str, Any]:
    """The Train tab's components; Gradio leaves a loop of its own behind where none is running."""
    with gr.Blocks():
        return TrainTab(services, KeptLooks()).form


def test_the_form_shows_them_when_the_page_opens(services: Services) -> None:
    with ThreadPoolExecutor(1) as thread:  # of its own: a browser test may have left a loop in this one
        form = thread.submit(lambda: asyncio.run(build_form(services))).result()
    assert [form[name].value for name in ("pre_seq_len", "max_steps", "learning_rate")] == [128, 3000, 2e-2]


# What learns


@pytest.mark.parametrize("length", [None, "", "none"])
def test_an_emptied_prefix_length_is_refused(services: Services, data: DataChoice, length: str | None) -> None:
    for form in ({"pre_seq_len": length}, {"pre_seq_len": length, LEARNS: PREFIX}):
        with pytest.raises(RunError, match="Prefix length is empty"):
            services.training.start(data, form, "run")
    assert services.training.names() == []


def test_all_weights_are_a_choice_of_their_own_with_a_rate_of_their_own(services: Services, data: DataChoice) -> None:
    settings = services.training.start(data, {LEARNS: ALL_WEIGHTS, "pre_seq_len": 128}, "run").settings()
    assert settings.trains_all_weights and settings.learning_rate == FULL_LEARNING_RATE
    assert settings.quantization_bit is None and settings.dtype == "auto"


def test_all_weights_that_do_not_fit_are_refused_at_the_click(
    services: Services, data: DataChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.plan.memory.free_bytes", lambda device: 1000)
    with pytest.raises(RunError, match="billion weights in float32 needs about"):
        services.training.start(data, {LEARNS: ALL_WEIGHTS}, "run")
    assert services.training.names() == []
    services.training.start(data, {LEARNS: PREFIX}, "run")


# What a run does before its first step


def test_a_run_whose_prompts_cannot_be_pinned_is_not_left_behind(
    services: Services, data: DataChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="no space left"):
        patch.setattr("training.runs.pins.write_atomically", refuse)
        services.training.start(data, {}, "run", ["a prompt"])
    with pytest.raises(RunError, match="At most 5"):
        services.training.start(data, {}, "run", list("123456"))
    assert services.training.names() == []
    services.training.start(data, {}, "run", ["a prompt"])
    assert services.training.view("run").pins == ("a prompt",)


@pytest.mark.parametrize("phase", PHASE_WORDS)
def test_a_run_that_starts_says_what_it_does(services: Services, data: DataChoice, phase: Phase) -> None:
    run = services.training.start(data, {}, "run")
    alive = psutil.Process()
    run.update(status=Status.RUNNING, pid=alive.pid, pid_started_at=alive.create_time() - psutil.boot_time())
    say(run, PhaseEvent(phase=phase), MessageEvent(en="3 rows are left out.", zh="跳过 3 行。"))
    view = services.training.view("run")
    assert view.phase == phase
    assert PHASE_WORDS[phase][0] in run_html(view, EN) and PHASE_WORDS[phase][1] in run_html(view, ZH)
    started = StartedEvent(step=0, total_steps=4, examples=9, trainable_parameters=3, device="cpu")
    numbers = dict.fromkeys(
        ("loss", "learning_rate", "gradient_norm", "seconds_per_step", "tokens_per_second", "seconds_left"), 1.0
    )
    say(run, started, StepEvent(step=1, total_steps=4, **numbers))
    assert services.training.view("run").phase is None
    say(run, PhaseEvent(phase="importing"))  # resumed
    assert services.training.view("run").phase == "importing"
    run.update(status=Status.FAILED)
    assert services.training.view("run").phase is None


def say(run: Run, *events: Any) -> None:
    for event in events:
        run.append(event)
