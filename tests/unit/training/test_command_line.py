"""The original's command lines work as they are; mistakes get one sentence."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import chatglm2
from chatglm2.errors import RunError
from training.cli.parser import build_parser, parse_command
from training.cli.train import main, with_warm_start
from training.runs.store import RunStore
from training.settings.train import TrainingSettings, setting_fields

# The original's train.sh, word for word but for the variables.
ORIGINAL_TRAIN_SH = """
    --do_train --train_file AdvertiseGen/train.json --validation_file AdvertiseGen/dev.json
    --preprocessing_num_workers 10 --prompt_column content --response_column summary --overwrite_cache
    --model_name_or_path THUDM/chatglm2-6b --output_dir output/adgen-chatglm2-6b-pt-128-2e-2 --overwrite_output_dir
    --max_source_length 64 --max_target_length 128 --per_device_train_batch_size 1 --per_device_eval_batch_size 1
    --gradient_accumulation_steps 16 --predict_with_generate --max_steps 3000 --logging_steps 10 --save_steps 1000
    --learning_rate 2e-2 --pre_seq_len 128 --quantization_bit 4
"""
# The original's evaluate.sh, likewise.
ORIGINAL_EVALUATE_SH = """
    --do_predict --validation_file AdvertiseGen/dev.json --test_file AdvertiseGen/dev.json --overwrite_cache
    --prompt_column content --response_column summary --model_name_or_path THUDM/chatglm2-6b
    --ptuning_checkpoint output/adgen-chatglm2-6b-pt-128-2e-2/checkpoint-3000
    --output_dir output/adgen-chatglm2-6b-pt-128-2e-2 --overwrite_output_dir --max_source_length 64
    --max_target_length 64 --per_device_eval_batch_size 1 --predict_with_generate --pre_seq_len 128 --quantization_bit 4
"""


def test_the_originals_training_command_is_understood() -> None:
    command = parse_command(shlex.split(ORIGINAL_TRAIN_SH))
    settings = command.settings()
    assert command.output_dir == Path("output/adgen-chatglm2-6b-pt-128-2e-2")
    assert command.overwrite
    assert (settings.pre_seq_len, settings.quantization_bit, settings.learning_rate) == (128, 4, 0.02)
    assert (settings.max_source_length, settings.max_target_length, settings.max_steps) == (64, 128, 3000)
    assert (settings.prompt_column, settings.response_column) == ("content", "summary")


def test_the_originals_evaluation_command_is_understood() -> None:
    command = parse_command(shlex.split(ORIGINAL_EVALUATE_SH))
    settings = command.settings()
    assert (command.train, command.evaluate, command.predict) == (False, False, True)
    assert (settings.max_source_length, settings.max_target_length, settings.pre_seq_len) == (64, 64, 128)
    assert settings.per_device_eval_batch_size == 1
    assert str(settings.test_file).endswith("dev.json") and str(settings.ptuning_checkpoint).endswith("checkpoint-3000")
    assert [en.split(":")[0] for en, _ in command.notes] == ["--overwrite_cache", "--predict_with_generate"]


def test_flags_without_effect_are_accepted_with_a_line_each() -> None:
    command = parse_command(["--overwrite_cache", "--generation_max_length", "4", "--max_steps", "3"])
    assert [en.split(":")[0] for en, _ in command.notes] == ["--overwrite_cache", "--generation_max_length"]
    assert command.values == {"max_steps": "3"}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--fp16"], "dtype", "float16"),
        (["--bf16", "True"], "dtype", "bfloat16"),
        (["--fp16", "False"], "dtype", "auto"),
        (["--fp16_full_eval"], "dtype", "float16"),
        (["--no_cuda"], "device", "cpu"),
        (["--generation_num_beams", "4"], "num_beams", 4),
        (["--num_train_epochs", "2"], "max_steps", -1),
        (["--max-steps", "5"], "max_steps", 5),
        (["--max_steps=5"], "max_steps", 5),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--prefix_projection"], "prefix_projection", True),
        (["--prefix_projection", "False"], "prefix_projection", False),
        (["--ignore_pad_token_for_loss", "False"], "ignore_pad_token_for_loss", False),
    ],
)
def test_flags_mean_what_they_say(words: list[str], name: str, value: object) -> None:
    assert getattr(parse_command(words).settings(), name) == value


def test_a_json_file_stands_for_flags(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"max_steps": 9, "do_train": True, "output_dir": "output/x", "history_column": None}))
    command = parse_command([str(file)])
    assert command.settings().max_steps == 9
    assert command.output_dir == Path("output/x")


def test_files_are_found_from_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert parse_command(["--train_file", "rows.json"]).settings().train_file == str(tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lerning_rate", "1"], "Did you mean --learning_rate"),
        (["--max_steps"], "expected one argument"),
        (["stray"], "Did not expect 'stray'"),
        (["--fsdp", "sideways", "--pre_seq_len", "none"], "--fsdp takes words among"),
        (["--resume_from_checkpoint", "True"], "needs --output_dir"),
        (["missing.json"], "missing.json is not a file of flags"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_complaints_are_in_the_shells_language(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["--lerning_rate", "1"]) == 2
    assert "您是否想写 --learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_explains_every_setting(language: str) -> None:
    text = build_parser(language).format_help()
    for item in setting_fields():
        assert f"--{item.name}" in text


def test_an_abbreviated_flag_is_not_guessed() -> None:
    with pytest.raises(RunError, match="There is no flag --max_step"):
        parse_command(["--max_step", "3"])


# Runs a module as ``python -m`` does, then names what is slow to import and was imported.
WATCHED_DOOR = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("exit", end.code or 0)
print("slow:", sorted({"torch", "transformers", "datasets", "gradio"} & sys.modules.keys()))
"""


@pytest.mark.skipif(not hasattr(chatglm2, "__getattr__"), reason="to import chatglm2 loads torch")
@pytest.mark.parametrize("door", ["training.main", "training.cli"])
@pytest.mark.parametrize("word", ["--help", "--list", "--lerning_rate"])
def test_what_trains_nothing_answers_without_loading_torch(
    repository: Path, tmp_path: Path, door: str, word: str
) -> None:
    RunStore(tmp_path).create(TrainingSettings(), "my-run")
    words = [sys.executable, "-c", WATCHED_DOOR, door, word, "--output_dir", str(tmp_path / "run")]
    shown = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert shown.endswith("slow: []\n")
    expected = {"--help": "--train_file", "--list": "my-run", "--lerning_rate": "exit 2"}[word]
    assert expected in shown


def test_resuming_a_checkpoint_of_the_originals_begins_a_new_run_with_its_prefix(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint-3000"
    place.mkdir()
    torch.save({"transformer.prefix_encoder.embedding.weight": torch.zeros(5, 32)}, place / "pytorch_model.bin")
    (place / "config.json").write_text(json.dumps({"model_type": "chatglm", "pre_seq_len": 5}))
    command = with_warm_start(parse_command(["--resume_from_checkpoint", str(place)]))
    assert command.resume_from is None
    assert command.values == {"pre_seq_len": 5, "ptuning_checkpoint": str(place)}
    assert "a warm start, with a fresh optimizer" in command.notes[-1][0]


def test_resuming_a_run_stays_resuming(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingSettings(), "run")
    command = parse_command(["--resume_from_checkpoint", str(run.path)])
    assert with_warm_start(command) == command


def test_native_windows_is_told_of_wsl_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LC_ALL", "C")
    assert main(["--list"]) == 2
    assert "Windows runs this program in WSL" in capsys.readouterr().err
