"""A form from the settings' own declarations: one component a setting, with its words and its range.

Knows how a `SettingField` becomes a component. Knows no particular setting beyond which ones the page decides itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from app.tabs.translations import word
from training.settings.field import SettingField
from training.settings.presets import PRESETS
from training.settings.train import setting_fields

# Chosen elsewhere on the page, or without meaning in it.
DECIDED_BY_PAGE = frozenset(
    (
        *("model_name_or_path", "hub", "train_file", "prompt_column", "response_column", "history_column"),
        "preprocessing_num_workers",
    )
)


def form_fields(group: str) -> list[SettingField]:
    """The settings of a group that a form offers, in their order."""
    return [item for item in setting_fields() if item.group == group and item.name not in DECIDED_BY_PAGE]


def preset_values(name: str) -> dict[str, Any]:
    """What a preset puts into the form: every setting that some preset sets, at its default where this one does not."""
    touched = {setting for preset in PRESETS.values() for setting in preset.values}
    defaults = {item.name: item.default for item in setting_fields() if item.name in touched}
    return {**defaults, **(PRESETS[name].values if name in PRESETS else {})}


def preset_reason(name: str) -> tuple[str, str]:
    """Why one would choose a preset, in English and Chinese."""
    return PRESETS[name].reason if name in PRESETS else ("", "")


def setting_words() -> dict[str, tuple[str, str]]:
    """Labels and one-line explanations of all settings, for the page's translations."""
    words: dict[str, tuple[str, str]] = {}
    for item in setting_fields():
        words[f"setting_{item.name}"] = item.label
        words[f"setting_{item.name}_help"] = item.help
    return words


def build_setting(item: SettingField) -> Any:
    """The component for one setting."""
    common: dict[str, Any] = {
        "label": word(f"setting_{item.name}"),
        "info": word(f"setting_{item.name}_help"),
        "elem_id": f"setting-{item.name}",
        "min_width": 120,
    }
    if item.choices:
        choices: list[tuple[Any, Any]] = [(str(choice), choice) for choice in item.choices]
        if item.optional:
            choices.insert(0, ("—", ""))
        return gr.Dropdown(choices, value="" if item.default is None else item.default, filterable=False, **common)
    if item.examples:
        offered = [("—", ""), *((Path(example).name, example) for example in item.examples)]
        return gr.Dropdown(offered, value=item.default or "", allow_custom_value=True, **common)
    if item.type == "bool":
        return gr.Checkbox(bool(item.default), **common)
    if item.type == "str" or (item.optional and item.default is None):
        # A number field shows 0 where nothing is set; text stays empty, and `SettingField.parse` reads it either way.
        return gr.Textbox("" if item.default is None else str(item.default), max_lines=1, **common)
    whole, value = item.type == "int", float(item.default or 0)
    step = 1.0 if whole else max((value or 0.01) / 10, 1e-6)
    return gr.Number(
        value, precision=0 if whole else None, step=step, minimum=item.minimum, maximum=item.maximum, **common
    )
