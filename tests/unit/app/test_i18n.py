"""Both languages say everything, and a request is answered in its own."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from app.tabs.translations import build_i18n, word
from app.text.languages import LANGUAGE_COOKIE, Speech, language_of
from app.text.words import WORDS
from app.training.form import form_fields, setting_words
from training.comparison.place import Status as EvaluationStatus
from training.runs.store import SAFE_NAME, Status
from training.settings.train import setting_fields


def placeholders(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_take_the_same_values(key: str) -> None:
    en, zh = WORDS[key]
    assert en and zh
    assert placeholders(en) == placeholders(zh)


def test_every_word_the_code_asks_for_exists(repository: Path) -> None:
    asked = set()
    for path in (repository / "app").rglob("*.py"):
        asked |= set(re.findall(r"""\b(?:speech|word)\("(\w+)"[,)]""", path.read_text(encoding="utf-8")))
    assert asked
    assert asked <= {*WORDS, *setting_words()}


def test_every_word_is_used(repository: Path) -> None:
    files = [path for suffix in ("py", "html") for path in (repository / "app").rglob(f"*.{suffix}")]
    paths = [path for path in files if not path.name.endswith("words.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in paths).replace("'", '"')
    built = (
        "cost_share_",
        "status_",
        "evaluation_",
        "action_",
        "column_",
        "fact_",
        "finish_",
        "loaded_",
        "left_model",
        "right_model",
        "topic_",
        "sample_left",
        "sample_right",
        "save_",
        "proof_",
        "vote_",
        "votes_",
    )
    unused = [
        key for key in WORDS if f'"{key}"' not in code and not key.startswith(built) and not key.endswith("_help")
    ]
    assert not unused


def test_every_status_has_its_words() -> None:
    assert all(f"status_{status}" in WORDS for status in Status)
    assert all(f"evaluation_{status}" in WORDS for status in EvaluationStatus)


@pytest.mark.parametrize(
    "cookies, headers, default, expected",
    [
        ({}, {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}, None, "zh"),
        ({}, {"accept-language": "zh-TW"}, None, "zh"),
        ({}, {"accept-language": "fr,zh;q=0.5"}, None, "en"),
        ({}, {}, None, "en"),
        ({}, {"accept-language": "en"}, "zh", "zh"),
        ({LANGUAGE_COOKIE: "en"}, {"accept-language": "zh"}, "zh", "en"),
        ({LANGUAGE_COOKIE: "<script>"}, {"accept-language": "zh"}, None, "zh"),
    ],
)
def test_a_choice_outranks_the_start_flag_which_outranks_the_browser(
    cookies: dict[str, str], headers: dict[str, str], default: str | None, expected: str
) -> None:
    assert language_of(cookies, headers, default) == expected


def test_the_browser_gets_the_settings_words_too() -> None:
    translations = build_i18n(setting_words()).translations_dict
    assert translations["zh"][word("setting_learning_rate").key] == "学习率"
    assert set(translations["zh"]) == set(translations["en"])


def test_no_word_that_the_browser_translates_looks_like_a_value() -> None:
    keys = build_i18n(setting_words()).translations_dict["en"]
    choices = {str(choice) for item in setting_fields() for choice in (*item.choices, *item.examples)}
    assert not choices & set(keys)
    assert not [key for key in keys if SAFE_NAME.fullmatch(key)]  # nor like a run's name


def test_speech_fills_values_in() -> None:
    assert Speech("zh")("tokens", count=3) == "3 个 token"
    assert Speech("en").pick("a", "甲") == "a"


def test_the_form_offers_every_setting_once_except_what_the_page_decides() -> None:
    names = [item.name for group in ("basic", "advanced") for item in form_fields(group)]
    assert len(names) == len(set(names))
    left_out = {item.name for item in setting_fields()} - set(names)
    assert "train_file" in left_out and "learning_rate" not in left_out
