"""A form's components, one a setting. What each of them needs to know is `app.training.form`'s matter."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.tabs.translations import word
from app.training.form import control_for
from training.settings.field import SettingField


def build_setting(item: SettingField) -> Any:
    """The component for one setting."""
    control = control_for(item)
    common: dict[str, Any] = {
        "label": word(f"setting_{item.name}"),
        "info": word(f"setting_{item.name}_help"),
        "elem_id": f"setting-{item.name}",
        "min_width": 120,
    }
    match control.kind:
        case "menu":
            return gr.Dropdown(list(control.choices), value=control.value, filterable=False, **common)
        case "open menu":
            return gr.Dropdown(list(control.choices), value=control.value, allow_custom_value=True, **common)
        case "tick":
            return gr.Checkbox(control.value, **common)
        case "text":
            return gr.Textbox(control.value, max_lines=1, **common)
        case "number":
            # Neither rounded nor kept within its range here: the setting says what it takes, by name, in two languages.
            return gr.Number(control.value, step=control.step, **common)
