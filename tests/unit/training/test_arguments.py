"""Settings are declared once; every wrong value is refused in the user's own words."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from chatglm2.errors import RunError
from training.settings.train import TrainingSettings, setting_fields


def test_settings_survive_being_stored() -> None:
    settings = TrainingSettings(max_steps=7, quantization_bit=4, validation_file="dev.json", learning_rate=1e-3)
    assert TrainingSettings.from_dict(settings.to_dict()) == settings


def test_every_setting_has_words_in_both_languages() -> None:
    for item in setting_fields():
        assert all(word.strip() for word in (*item.label, *item.help)), item.name


def test_every_default_is_within_its_own_range() -> None:
    for item in setting_fields():
        assert getattr(TrainingSettings.from_dict({item.name: item.default}), item.name) == item.default


def test_values_of_a_form_become_the_settings_types() -> None:
    settings = TrainingSettings.from_dict({"max_steps": 12.0, "quantization_bit": "", "prefix_projection": "true"})
    assert (settings.max_steps, settings.quantization_bit, settings.prefix_projection) == (12, None, True)


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("max_steps", "1e3", 1000),
        ("max_steps", " 12 ", 12),
        ("quantization_bit", "4", 4),
        ("quantization_bit", 8.0, 8),
        ("quantization_bit", "None", None),
        ("learning_rate", "3e-3", 3e-3),
        ("skip_bad_rows", "yes", True),
        ("source_prefix", None, ""),
        ("source_prefix", 7, "7"),
        ("mix_file", "null", None),
    ],
)
def test_a_value_is_read_as_people_write_it(name: str, written: object, value: object) -> None:
    found = getattr(TrainingSettings.from_dict({name: written}), name)
    assert (found, type(found)) == (value, type(value))


def test_the_rate_of_all_weights_is_theirs_wherever_settings_are_made() -> None:
    assert TrainingSettings(pre_seq_len=None).learning_rate == 5e-5
    assert TrainingSettings(pre_seq_len=None, learning_rate=1e-4).learning_rate == 1e-4
    assert replace(TrainingSettings(keep=0), pre_seq_len=None).learning_rate == 5e-2, "what was settled stays"


def test_changed_settings_are_checked_as_new_ones_are() -> None:
    with pytest.raises(RunError, match="--max_steps must be a whole number from -1 to 1e\\+06; found 'many'"):
        replace(TrainingSettings(), max_steps="many")  # type: ignore[arg-type]


def test_another_process_gets_equal_settings() -> None:
    settings = TrainingSettings(pre_seq_len=None, dtype="bfloat16")
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "fast"),
        ("learning_rate", 5),
        ("learning_rate", float("nan")),
        ("max_steps", 2.5),
        ("max_steps", 0),
        ("max_steps", None),
        ("max_steps", True),
        ("per_device_train_batch_size", 0),
        ("quantization_bit", 3),
        ("truncation", "middle"),
        ("prefix_projection", "perhaps"),
        ("eval_steps", 5),
    ],
)
def test_a_wrong_value_is_refused_by_its_flag(name: str, value: object) -> None:
    with pytest.raises(RunError, match=f"--{name} ") as refusal:
        TrainingSettings.from_dict({name: value})
    assert f"--{name}" in refusal.value.zh


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(RunError, match="Did you mean --learning_rate"):
        TrainingSettings.from_dict({"lerning_rate": 0.1})
