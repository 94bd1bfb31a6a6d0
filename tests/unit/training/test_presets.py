"""A preset sets several settings, the user's own win, and a run keeps the values themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm2.errors import RunError
from training.cli.parser import parse_command
from training.runs.store import RunStore
from training.settings.presets import PRESETS
from training.settings.train import TrainingSettings


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_set_of_settings_with_a_reason(name: str) -> None:
    settings = TrainingSettings.from_dict({"preset": name})
    assert {key: getattr(settings, key) for key in PRESETS[name].values} == PRESETS[name].values
    en, zh = PRESETS[name].reason
    assert en.isascii() and not zh.isascii()


@pytest.mark.parametrize("words", ["--learning_rate 3e-3 --preset adgen", "--preset=adgen --learning-rate=3e-3"])
def test_what_a_user_sets_wins_over_the_preset_in_any_order(words: str) -> None:
    settings = parse_command(words.split()).settings()
    assert settings.learning_rate == 3e-3
    assert settings.max_steps == 3000


def test_the_originals_batch_of_16_is_kept() -> None:
    for name in ("adgen", "chat"):
        settings = TrainingSettings.from_dict({"preset": name})
        assert settings.per_device_train_batch_size * settings.gradient_accumulation_steps == 16


def test_a_run_keeps_the_values_and_not_only_the_name(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingSettings.from_dict({"preset": "chat"}), "run")
    stored = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (stored["preset"], stored["learning_rate"], stored["max_source_length"]) == ("chat", 1e-2, 256)
    assert run.settings() == TrainingSettings.from_dict({"preset": "chat"})


def test_all_weights_are_not_given_a_prefixs_rate() -> None:
    assert TrainingSettings.from_dict({"pre_seq_len": None}).learning_rate == 5e-5
    with pytest.raises(RunError, match="--preset does not go with training all weights: its learning rate is a prefix"):
        TrainingSettings.from_dict({"pre_seq_len": None, "preset": "gentle"})


@pytest.mark.parametrize(("given", "meant"), [("eval_loss", "loss"), ("eval_rouge-l", "rouge-l"), ("bleu-4", "bleu-4")])
def test_transformers_names_of_metrics_are_understood(given: str, meant: str) -> None:
    words = ["--metric_for_best_model", given]
    words += ["--validation_file", "x.json", "--eval_steps", "1", "--eval_generate_samples", "2"]
    assert parse_command(words).settings().metric_for_best_model == meant
