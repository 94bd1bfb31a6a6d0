"""Settings are declared once; every wrong value is refused in the user's own words."""

from __future__ import annotations

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
        assert item.parse(item.default) == item.default, item.name


def test_values_of_a_form_become_the_settings_types() -> None:
    settings = TrainingSettings.from_dict({"max_steps": 12.0, "quantization_bit": "", "prefix_projection": "true"})
    assert (settings.max_steps, settings.quantization_bit, settings.prefix_projection) == (12, None, True)


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
