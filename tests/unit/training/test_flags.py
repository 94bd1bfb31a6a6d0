"""transformers' own flags are handed on, said in our words, or accepted with a line; none is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from chatglm2.errors import RunError
from training.cli.parser import ALL_WEIGHTS, TRANSLATED_FLAGS, UNUSED_FLAGS, parse_command
from training.loop.trainer_arguments import build_arguments
from training.plan.step_plan import StepPlan
from training.settings.presets import ORIGINAL_DEFAULTS
from training.settings.train import TrainingSettings, setting_fields
from training.settings.transformers_flags import PASSED_FLAGS, RENAMED_FLAGS, SUCCESSORS

# What `_RUN_FLAGS` of the command line takes.
OF_RUNS = {"do_train", "do_eval", "do_predict", "output_dir", "resume_from_checkpoint"}


def arguments_for(words: list[str], directory: Path) -> TrainingArguments:
    settings = parse_command(words).settings()
    return build_arguments(settings, directory / ".staging", torch.device("cpu"), StepPlan())


def test_every_flag_of_transformers_is_known() -> None:
    ours = {item.name for item in setting_fields()} | OF_RUNS
    known = ours | PASSED_FLAGS.keys() | UNUSED_FLAGS.keys() | TRANSLATED_FLAGS.keys() | RENAMED_FLAGS.keys()
    assert not TrainingArguments.__dataclass_fields__.keys() - known


def test_a_flag_is_known_in_one_way() -> None:
    ours = {item.name for item in setting_fields()} | OF_RUNS
    ways = (ours, PASSED_FLAGS.keys(), UNUSED_FLAGS.keys(), TRANSLATED_FLAGS.keys(), RENAMED_FLAGS.keys())
    names = [name for way in ways for name in way]
    assert sorted(names) == sorted(set(names))


def test_what_is_handed_on_is_transformers_own() -> None:
    handed_on = {SUCCESSORS.get(name, name) for name in PASSED_FLAGS}
    assert handed_on <= TrainingArguments.__dataclass_fields__.keys()


def test_flags_reach_transformers(tmp_path: Path) -> None:
    words = ["--adam_beta1", "0.8", "--adam_epsilon=1e-6", "--dataloader_drop_last", "--optim", "adafactor"]
    arguments = arguments_for([*words, "--lr_scheduler_kwargs", '{"num_cycles": 2}'], tmp_path)
    assert (arguments.adam_beta1, arguments.adam_epsilon, arguments.dataloader_drop_last) == (0.8, 1e-6, True)
    assert arguments.optim == "adafactor" and arguments.lr_scheduler_kwargs == {"num_cycles": 2}


def test_a_runs_file_keeps_what_was_handed_on(tmp_path: Path) -> None:
    settings = parse_command(["--adam_beta2", "0.98"]).settings()
    again = TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings and again.extra() == {"adam_beta2": 0.98}
    assert build_arguments(again, tmp_path, torch.device("cpu"), StepPlan()).adam_beta2 == 0.98


def test_flags_that_transformers_5_dropped_are_translated(tmp_path: Path) -> None:
    arguments = arguments_for(["--warmup_ratio", "0.1", "--max_steps", "50", "--optim", "adamw_hf"], tmp_path)
    assert arguments.get_warmup_steps(50) == 5 and arguments.optim == "adamw_torch"
    words = ["--evaluation_strategy", "steps", "--logging_dir", "x", "--save_safetensors", "False", "--use_mps_device"]
    command = parse_command([*words, "--length_column_name", "n", "--report_to", "none", "--sharded_ddp", "simple"])
    assert len(command.notes) == 7
    assert not command.values


def test_the_former_optimizer_is_said_to_be_torchs() -> None:
    (note,) = parse_command(["--optim", "adamw_hf"]).notes
    assert "torch's AdamW is used" in note[0]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--no_ignore_pad_token_for_loss"], {"ignore_pad_token_for_loss": "False"}),
        (["--no-group-by-length"], {"group_by_length": "False"}),
        (["--no_dataloader_pin_memory"], {"extra_arguments": '{"dataloader_pin_memory": false}'}),
        (["--no_skip_memory_metrics", "--no_use_fast_tokenizer"], {}),
        (["--adafactor"], {"extra_arguments": '{"optim": "adafactor"}'}),
        (["--no_cuda"], {"device": "cpu"}),
    ],
)
def test_the_short_forms_of_transformers_are_understood(words: list[str], values: dict[str, object]) -> None:
    assert parse_command(words).values == values


@pytest.mark.parametrize("schedule", ["cosine_with_restarts", "polynomial", "inverse_sqrt", "reduce_lr_on_plateau"])
def test_schedules_of_transformers_reach_it(schedule: str, tmp_path: Path) -> None:
    words = ["--lr_scheduler_type", schedule, "--eval_steps", "5", "--validation_file", "dev.json"]
    assert arguments_for(words, tmp_path).lr_scheduler_type == schedule


@pytest.mark.parametrize("name", ["logging_steps", "save_steps", "eval_steps"])
def test_a_share_of_all_steps_is_rounded_up_as_transformers_does(name: str) -> None:
    words = [f"--{name}", "0.15", "--validation_file", "dev.json"]
    assert getattr(parse_command([*words, "--max_steps", "50"]).settings(), name) == 8
    with pytest.raises(RunError, match=f"--{name} 0.15 is a share of all steps"):
        parse_command([*words, "--num_train_epochs", "2"]).settings()


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--gradient_checkpointing"], "on"),
        (["--gradient_checkpointing", "False"], "off"),
        (["--gradient_checkpointing", "auto"], "auto"),
        (["--activation_checkpointing", "True"], "on"),
    ],
)
def test_recomputing_is_switched_as_transformers_does(words: list[str], value: str) -> None:
    assert parse_command(words).settings().gradient_checkpointing == value


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (["--do_train"], None),
        (["--do_train", "--pre_seq_len", "128"], 128),
        (["--do_train", "--preset", "adgen"], 128),
        ([], 16),
        (["--pre_seq_len", "none"], None),
        (["--fsdp"], None),
        (["--deepspeed", "deepspeed.json"], None),
        (["--do_predict"], 16),
    ],
)
def test_the_originals_command_lines_train_all_weights_without_a_prefix_length(
    words: list[str], length: int | None
) -> None:
    command = parse_command(words)
    settings = command.settings()
    assert settings.pre_seq_len == length
    assert settings.learning_rate == {None: 5e-5, 16: 5e-2, 128: 2e-2 if "--preset" in words else 5e-2}[length]
    assert (ALL_WEIGHTS in command.notes) == (length is None and "none" not in words)


def test_resuming_keeps_a_runs_own_prefix_length() -> None:
    assert parse_command(["--do_train", "--resume_from_checkpoint", "output/x"]).values == {}


def test_values_that_are_false_in_a_file_of_flags_stay_false(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text(
        json.dumps(
            {
                **{"do_train": False, "ignore_pad_token_for_loss": False, "detach": False},
                "lr_scheduler_kwargs": {"a": 1},
            }
        )
    )
    command = parse_command([str(file)])
    assert command.settings().ignore_pad_token_for_loss is False and not command.detach
    assert command.settings().extra() == {"lr_scheduler_kwargs": {"a": 1}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--adam_beta1", "much"], "--adam_beta1 takes a number; found 'much'"),
        (["--adam_beta1"], "--adam_beta1 takes a number; found None"),
        (["--fsdp_config", "missing.json"], "takes a JSON file or a JSON object"),
        (["--extra_arguments", "[1]"], "must be a JSON object"),
        (["--extra_arguments", '{"seed": 3}'], "cannot set 'seed'"),
        (["--extra_arguments", '{"adam_betta": 3}'], "cannot set 'adam_betta'"),
        (["--optim", "gradient_descent"], "transformers does not take these arguments"),
        (["--fsdp", "sideways"], "--fsdp takes words among"),
    ],
)
def test_a_value_that_does_not_fit_gets_a_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RunError) as refusal:
        arguments_for(words, tmp_path)
    assert sentence in refusal.value.en


@pytest.mark.parametrize("page", ["original.md", "original_zh.md"])
def test_the_docs_name_every_flag_that_changes_nothing(repository: Path, page: str) -> None:
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    assert not [name for name in UNUSED_FLAGS if f"`{name}`" not in text]


@pytest.mark.parametrize("page", ["original.md", "original_zh.md"])
def test_the_docs_name_what_the_original_has_where_a_flag_is_left_out(repository: Path, page: str) -> None:
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    settings = TrainingSettings.from_dict({"compat": "original"})
    assert {name: getattr(settings, name) for name in ORIGINAL_DEFAULTS} == dict(ORIGINAL_DEFAULTS)
    assert not [name for name in ORIGINAL_DEFAULTS if f"`--{name}`" not in text]
