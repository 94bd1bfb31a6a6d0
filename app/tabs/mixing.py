"""Under a pane of Compare: how strongly its prefix acts, and which second prefix stands beside it.

Builds components and says what they show. What a strength does is behind `app.chat.mixing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from app.chat.mixing import Mix
from app.chat.sources import BASE, Source
from app.tabs.access import open_to_all
from app.tabs.translations import word
from app.text.languages import Speech

NO_SECOND = ""
STEP = 0.05
MOST = 1.5


class Mixer:
    """The row under one pane; hidden where the base model answers, which has nothing to mix."""

    def __init__(self, pane: str) -> None:
        with gr.Row(visible=False, elem_classes="mixer", elem_id=f"{pane}-mixer") as self.row:
            self.strength = self._slider("strength", f"{pane}-strength")
            self.second = gr.Dropdown(
                choices=[("…", NO_SECOND)],
                value=NO_SECOND,
                label=word("second_prefix"),
                show_label=False,
                container=False,
                filterable=False,
                min_width=150,
                elem_id=f"{pane}-second",
            )
            self.second_strength = self._slider("second_strength", f"{pane}-second-strength", visible=False)

    @staticmethod
    def _slider(name: str, elem_id: str, visible: bool = True) -> gr.Slider:
        return gr.Slider(
            0, MOST, 1, step=STEP, label=word(name), buttons=[], min_width=150, visible=visible, elem_id=elem_id
        )

    @property
    def inputs(self) -> set[Any]:
        return {self.strength, self.second, self.second_strength}

    @property
    def outputs(self) -> list[Any]:
        return [self.row, self.strength, self.second, self.second_strength]

    def read(self, values: Mapping[Any, Any]) -> Mix:
        """What the row says."""
        return Mix(values[self.strength], values[self.second] or NO_SECOND, values[self.second_strength])

    @open_to_all
    def on_second(self, key: str | None) -> dict[Any, Any]:
        """The second strength is asked for only where there is a second prefix."""
        return {self.second_strength: gr.Slider(visible=bool(key))}

    def start(self, source: Source, speech: Speech) -> dict[Any, Any]:
        """As a checkpoint was trained, and nothing beside it: for one that was chosen just now."""
        return {
            self.row: gr.Row(visible=not source.is_base),
            self.strength: gr.Slider(value=1, label=_strength_label(source, speech)),
            self.second: gr.Dropdown(value=NO_SECOND),
            self.second_strength: gr.Slider(value=1, visible=False),
        }

    def offer(self, sources: Sequence[Source], key: str, second: str, speech: Speech) -> dict[Any, Any]:
        """The checkpoints that there are now; a second prefix that is gone is no more chosen."""
        choices = [(speech("no_second"), NO_SECOND)]
        choices += [(source.name, source.key) for source in sources if not source.is_base]
        kept = second if second in (value for _, value in choices) else NO_SECOND
        chosen = next((source for source in sources if source.key == key), Source(BASE))
        return {
            self.row: gr.Row(visible=not chosen.is_base),
            self.strength: gr.Slider(label=_strength_label(chosen, speech)),
            self.second: gr.Dropdown(choices=choices, value=kept),
            **self.on_second(kept),
        }


def _strength_label(source: Source, speech: Speech) -> str:
    """With what an evaluation proposes for the checkpoint, if one has."""
    proposed = source.info.proposed_strength if source.info is not None else None
    if proposed is None:
        return speech("strength")
    return speech("strength_proposed", strength=f"{proposed:g}")
