"""A form asks for each setting in a way that leads to the value that was declared."""

from __future__ import annotations

import pytest

from app.tabs.settings_form import build_setting
from app.training.form import control_for, form_fields
from training.settings.field import SettingField
from training.settings.train import TrainingSettings

# What else must be set for a setting to take all of its values.
NEEDED = {"metric_for_best_model": {"eval_generate_samples": 1, "eval_steps": 1, "validation_file": "dev.json"}}


def parsed(item: SettingField, value: object) -> object:
    """What the setting becomes where a form gives ``value``."""
    return getattr(TrainingSettings.from_dict({**NEEDED.get(item.name, {}), item.name: value}), item.name)


OFFERED = [item for group in ("basic", "advanced") for item in form_fields(group)]


@pytest.mark.parametrize("item", OFFERED, ids=lambda item: item.name)
def test_a_form_left_as_it_is_gives_the_default(item: SettingField) -> None:
    assert parsed(item, control_for(item).value) == item.default


@pytest.mark.parametrize("item", OFFERED, ids=lambda item: item.name)
def test_every_choice_is_one_that_the_setting_takes(item: SettingField) -> None:
    values = [value for _, value in control_for(item).choices]
    assert [parsed(item, value) for value in values if value != ""] == list(item.choices or item.examples)
    if "" in values:
        assert parsed(item, "") in (None, "")


@pytest.mark.parametrize("item", OFFERED, ids=lambda item: item.name)
def test_the_component_holds_what_the_control_says(item: SettingField) -> None:
    component, control = build_setting(item), control_for(item)
    assert component.value == control.value
    if control.kind == "number":
        assert (component.minimum, component.maximum) == (item.minimum, item.maximum)
        if item.type == "int":
            assert component.preprocess(1.5) == 1.5  # that a whole number is needed is said, and none is guessed
