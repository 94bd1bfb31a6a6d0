"""The original's scripts train and evaluate with its values, from any directory and by its variables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoint import write_examples, write_tiny_checkpoint

from app.__main__ import build_parser as app_parser
from training.cli.parser import parse_command
from training.cli.train import main
from training.runs.events import step_history
from training.runs.store import Run, Status

HandedOn = Callable[..., list[str]]
SCRIPTS = (
    *("train.sh", "train_chat.sh", "evaluate.sh", "ds_train_finetune.sh", "evaluate_finetune.sh"),
    "web_demo.sh",
)
# Variables that mean something else to many people.
COMMON = ("MODEL", "DATA", "OUTPUT", "BATCH_SIZE", "MAX_STEPS", "TRAIN_DATA")


@pytest.fixture(scope="module")
def place(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, data and nothing else, from which scripts are called."""
    if not (repository / ".venv" / "installed-requirements.txt").is_file():
        pytest.skip("launch.sh has not set up .venv here, and a test should not")
    place = tmp_path_factory.mktemp("scripts")
    write_tiny_checkpoint(place / "model")
    (place / "AdvertiseGen").mkdir()
    for name in ("train.json", "dev.json"):
        write_examples(place / "AdvertiseGen" / name)
    return place


def run_script(
    repository: Path, place: Path, name: str, *flags: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PTUNE_MODEL": "model",
        "PTUNE_MAX_STEPS": "2",
        "STEP": "2",
        "PRE_SEQ_LEN": "4",
        "LC_ALL": "C",
        **variables,
    }
    return subprocess.run(
        ["bash", str(repository / "training" / "scripts" / name), *flags],
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def handed_on(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> HandedOn:
    """What a script hands to launch.sh, by its name and the variables that are set."""
    copy = tmp_path_factory.mktemp("copy")
    (copy / "training" / "scripts").mkdir(parents=True)
    launch = copy / "launch.sh"
    launch.write_text('#!/bin/sh\necho "NUM_GPUS=${NUM_GPUS:-}"\nprintf "%s\\n" "$@"\n')
    launch.chmod(0o755)
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    def call(name: str, **variables: str) -> list[str]:
        script = copy / "training" / "scripts" / name
        script.write_bytes((repository / "training" / "scripts" / name).read_bytes())
        command = ["bash", str(script)]
        return subprocess.run(
            command, env={**bare, **variables}, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    return call


@pytest.fixture(scope="module")
def words_of(handed_on: HandedOn) -> dict[str, list[str]]:
    """What each script hands to launch.sh, in an environment of somebody who uses common names for other things."""
    common = dict.fromkeys(COMMON, "/somewhere/else")
    return {name: handed_on(name, CHAT_TRAIN_DATA="chat.json", **common) for name in SCRIPTS}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "train.sh",
            {"lengths": (64, 128), "steps": (3000, 10, 1000), "rate": 2e-2, "prefix": (128, 4), "rows": (1, 16)},
        ),
        (
            "train_chat.sh",
            {"lengths": (256, 256), "steps": (3000, 10, 1000), "rate": 1e-2, "prefix": (128, 4), "rows": (1, 16)},
        ),
        (
            "ds_train_finetune.sh",
            {"lengths": (64, 64), "steps": (5000, 10, 1000), "rate": 1e-4, "prefix": (None, None), "rows": (4, 1)},
        ),
    ],
)
def test_training_scripts_have_the_originals_values(
    words_of: dict[str, list[str]], name: str, values: dict[str, object]
) -> None:
    gpus, command, *words = words_of[name]
    settings = parse_command(words).settings()
    assert command == "train"
    assert gpus == ("NUM_GPUS=4" if name.startswith("ds") else "NUM_GPUS=1")
    assert values == {
        "lengths": (settings.max_source_length, settings.max_target_length),
        "steps": (settings.max_steps, settings.logging_steps, settings.save_steps),
        "rate": settings.learning_rate,
        "prefix": (settings.pre_seq_len, settings.quantization_bit),
        "rows": (settings.per_device_train_batch_size, settings.gradient_accumulation_steps),
    }


def test_training_scripts_do_as_the_original_does(words_of: dict[str, list[str]]) -> None:
    for name in ("train.sh", "train_chat.sh", "evaluate.sh"):
        settings = parse_command(words_of[name][2:]).settings()
        assert (settings.compat, settings.truncation) == ("original", "original"), name


@pytest.mark.parametrize(
    ("name", "place"), [("/somewhere/run", "/somewhere/run"), ("run", "output/run")], ids=["absolute", "a name"]
)
def test_a_conversations_checkpoint_may_lie_anywhere(handed_on: HandedOn, name: str, place: str) -> None:
    _, _, *words = handed_on("train_chat.sh", CHAT_TRAIN_DATA="chat.json", CHECKPOINT_NAME=name)
    assert parse_command(words).output_dir == Path(place)


def test_evaluation_scripts_have_the_originals_values(words_of: dict[str, list[str]]) -> None:
    _, command, *words = words_of["evaluate.sh"]
    settings = parse_command(["--do_predict", *words]).settings()
    assert command == "evaluate"
    assert (settings.max_source_length, settings.max_target_length) == (64, 64)
    assert settings.ptuning_checkpoint == "output/adgen-chatglm2-6b-pt-128-2e-2/checkpoint-3000"
    assert settings.test_file == settings.validation_file == "AdvertiseGen/dev.json"
    _, _, *words = words_of["evaluate_finetune.sh"]
    settings = parse_command(["--do_predict", *words]).settings()
    assert (settings.max_source_length, settings.max_target_length) == (256, 256)
    assert settings.model_name_or_path == "output/adgen-chatglm2-6b-ft-1e-4/checkpoint-3000"


def test_the_web_demo_shows_what_was_trained(words_of: dict[str, list[str]]) -> None:
    _, command, *words = words_of["web_demo.sh"]
    options = app_parser().parse_args(words)
    assert command == "serve"
    assert options.model == "THUDM/chatglm2-6b" and options.pre_seq_len == 128
    assert options.ptuning_checkpoint == Path("output/adgen-chatglm2-6b-pt-128-2e-2/checkpoint-3000")


def test_train_sh_trains_and_evaluate_sh_scores(repository: Path, place: Path) -> None:
    trained = run_script(repository, place, "train.sh", "--device", "cpu", LR="5e-2", PTUNE_BATCH_SIZE="4")
    assert trained.returncode == 0, trained.stderr
    run = Run(place / "output" / "adgen-chatglm2-6b-pt-4-5e-2")
    assert run.state().status is Status.FINISHED
    assert step_history(run.events()[0])[0].learning_rate == 0.05
    words = ("--device", "cpu", "--max_predict_samples", "2")
    scored = run_script(repository, place, "evaluate.sh", *words, LR="5e-2", PTUNE_MAX_TARGET_LENGTH="8")
    assert scored.returncode == 0, scored.stderr
    assert (run.path / "generated_predictions.txt").is_file()


@pytest.mark.usefixtures("quick_trainers")
def test_one_gpus_full_fine_tuning_needs_no_deepspeed(
    handed_on: HandedOn, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    variables = {"PTUNE_MODEL": "model", "PTUNE_MAX_STEPS": "2", "STEP": "2", "PTUNE_MAX_TARGET_LENGTH": "8"}
    _, _, *words = handed_on("ds_train_finetune.sh", NUM_GPUS="1", **variables)
    assert main([*words, "--device", "cpu"]) == 0
    assert (place / "output" / "adgen-chatglm2-6b-ft-1e-4" / "checkpoint-2" / "model.safetensors").is_file()
    _, _, *words = handed_on("evaluate_finetune.sh", **variables)
    assert main(["--do_predict", *words, "--device", "cpu", "--max_predict_samples", "2"]) == 0


@pytest.mark.parametrize(
    ("name", "variables", "sentence"),
    [
        ("train_chat.sh", {}, "CHAT_TRAIN_DATA must name a file"),
        ("train.sh", {"NUM_GPUS": "two"}, "NUM_GPUS must be a whole number of 1 or more; found 'two'"),
        ("train.sh", {"PTUNE_DATA": "nowhere"}, "--train_file: there is no file nowhere/train.json"),
        ("ds_train_finetune.sh", {"PTUNE_SHARING": "magic"}, "PTUNE_SHARING must be deepspeed or fsdp; found 'magic'"),
    ],
)
def test_a_scripts_mistakes_get_a_sentence(
    repository: Path, place: Path, name: str, variables: dict[str, str], sentence: str
) -> None:
    refused = run_script(repository, place, name, "--device", "cpu", **variables)
    assert refused.returncode in (1, 2)
    assert sentence in refused.stderr
