"""A form asks for each setting in a way that leads to the value that was declared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.tabs.settings_form import build_setting
from app.text.languages import Speech
from app.training.form import TOPICS, by_topic, control_for, form_fields, problem_text, refill, setting_words
from chatglm2.errors import ChatGLMError
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
    if control.kind == "number" and item.type == "int":
        assert component.preprocess(1.5) == 1.5  # that a whole number is needed is said, and none is guessed


def test_a_preset_leaves_what_a_person_typed_and_takes_its_own_back() -> None:
    defaults = {"max_steps": 100, "learning_rate": 0.05, "source_prefix": None}
    typed = {"max_steps": 100.0, "learning_rate": 0.01, "source_prefix": ""}
    preset = {"max_steps": 3000, "learning_rate": 0.02, "source_prefix": "x"}
    assert refill(preset, defaults, typed) == {"max_steps": 3000, "source_prefix": "x"}
    shown = {"max_steps": 3000, "learning_rate": 0.01, "source_prefix": "x"}
    assert refill(defaults, preset, shown) == {"max_steps": 100, "source_prefix": None}


@pytest.mark.parametrize(("language", "label"), [("en", "“Steps”"), ("zh", "“训练步数”")])
def test_a_refused_value_is_named_by_its_label_in_the_readers_language(language: str, label: str) -> None:
    with pytest.raises(ChatGLMError) as caught:
        TrainingSettings.from_dict({"max_steps": 1.5})
    sentence = problem_text(caught.value, Speech(language))
    assert label in sentence and "--" not in sentence and "1.5" in sentence


def test_what_is_no_setting_of_the_form_keeps_its_name() -> None:
    assert problem_text(ChatGLMError("see --checkpoint-dir", ""), Speech("en")) == "see --checkpoint-dir"


def test_every_setting_stands_in_the_topic_that_names_it_and_in_no_other() -> None:
    grouped = by_topic(form_fields("advanced"))
    assert {topic: {item.name for item in fields} for topic, fields in grouped.items()} == {
        topic: set(names) for topic, names in TOPICS.items()
    }
    stranger = replace(form_fields("advanced")[0], name="new_setting")
    assert by_topic([stranger])[next(reversed(TOPICS))] == [stranger]


def test_a_settings_help_says_from_where_to_where_it_goes() -> None:
    words = setting_words()
    assert all("1–2048" in sentence for sentence in words["setting_pre_seq_len_help"])
    assert all("≥ 0" in sentence for sentence in words["setting_warmup_steps_help"])
