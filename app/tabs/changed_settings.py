"""Which settings of the form are not as they were offered, and the way back: one of them, or all.

Knows the form's components and what stood in them at first. What a setting means is not its matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from app.tabs.access import open_to_all
from app.tabs.listening import QUIET
from app.tabs.translations import speech_for
from app.training.form import changed_settings, form_defaults
from app.training.served import ALL_WEIGHTS, LEARNS
from app.views.markup import render
from training.settings.train import FULL_LEARNING_RATE, setting_fields

ALL = "*"
SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-setting]");
  if (button) trigger("click", { setting: button.dataset.setting });
});
"""


class ChangedSettings:
    """A line above the settings; :meth:`bind` lets it follow the form."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self.defaults = form_defaults(defaults)
        self.line = gr.HTML(elem_id="changed-settings", js_on_load=SCRIPT)

    def bind(self, demo: gr.Blocks, form: Mapping[str, Any]) -> None:
        """Watches those components of ``form`` that have a default."""
        self.learns = form[LEARNS]
        self.form = {name: form[name] for name in self.defaults if name in form}
        watched = [self.learns, *self.form.values()]
        gr.on(
            [component.change for component in watched],
            self.on_changed,
            set(watched),
            [self.line],
            trigger_mode="always_last",
            **QUIET,
        )
        self.line.click(self.on_back, [self.learns], list(self.form.values()), **QUIET)

    @open_to_all
    def on_changed(self, values: Mapping[Any, Any], request: gr.Request) -> str:
        speech = speech_for(request)
        current = {name: values[component] for name, component in self.form.items()}
        changed = changed_settings(current, self._defaults(values[self.learns]))
        labels = {item.name: speech.pick(*item.label) for item in setting_fields()}
        shown = [(name, labels[name], speech("reset_one", name=labels[name])) for name in changed]
        said = speech("changed_settings", count=len(changed))
        return str(render("changed_settings", changed=shown, said=said, all=ALL, all_back=speech("reset_all")))

    @open_to_all
    def on_back(self, learns: str, event: gr.EventData) -> dict[Any, Any]:
        asked = str(event.setting)
        defaults = self._defaults(learns)
        return {component: defaults[name] for name, component in self.form.items() if asked in (name, ALL)}

    def _defaults(self, learns: str) -> dict[str, Any]:
        return {**self.defaults, "learning_rate": FULL_LEARNING_RATE} if learns == ALL_WEIGHTS else self.defaults
