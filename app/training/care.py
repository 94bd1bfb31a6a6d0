"""Runs as things that a person keeps: their settings, a name, a note, and their end.

Knows ``training``'s runs. Knows neither Gradio nor how anything looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.training.form import BUILT_APART, DECIDED_BY_PAGE
from app.training.served import ALL_WEIGHTS, LEARNS, PREFIX
from training.runs import care
from training.runs.pins import read_pins, write_pins
from training.runs.store import RunStore
from training.settings.field import SettingField, SettingValue
from training.settings.samples import SAMPLE_TRAIN_FILE
from training.settings.train import TrainingSettings, setting_fields

# A training's own; what only an evaluation reads, and what joins several processes, is not shown.
SHOWN_GROUPS = ("basic", "advanced")
COLUMNS = ("prompt_column", "response_column", "history_column")


@dataclass(frozen=True)
class RunDetails:
    """What a run was asked to do, when, and what somebody wrote beside it.

    ``changed`` are the settings that are not as declared, ``others`` the rest, both in the settings' order.
    """

    name: str
    created_at: float
    note: str
    changed: tuple[tuple[SettingField, SettingValue], ...]
    others: tuple[tuple[SettingField, SettingValue], ...]


# A setting in which runs differ, and its value in each.
Difference = tuple[SettingField, tuple[SettingValue, ...]]


@dataclass(frozen=True)
class CopiedForm:
    """A run's settings as the form takes them. ``file`` is None where it trained on the sample."""

    values: Mapping[str, Any]
    file: str | None
    columns: Mapping[str, str]
    pins: tuple[str, ...]


class RunCare:
    def __init__(self, runs: RunStore) -> None:
        self._runs = runs

    def details(self, name: str) -> RunDetails:
        """What is known of a run besides how it goes."""
        run = self._runs.get(name)
        values = run.settings().to_dict()
        shown = [(item, values[item.name]) for item in setting_fields() if item.group in SHOWN_GROUPS]
        is_changed = [item.name == "train_file" or value != item.default for item, value in shown]
        return RunDetails(
            name=name,
            created_at=run.created_at(),
            note=care.read_note(run),
            changed=tuple(pair for pair, changed in zip(shown, is_changed, strict=True) if changed),
            others=tuple(pair for pair, changed in zip(shown, is_changed, strict=True) if not changed),
        )

    def differences(self, names: Sequence[str]) -> list[Difference]:
        """The settings in which runs differ, in the settings' order, with each one's value in the order of ``names``.

        Raises:
            ChatGLMError: one is gone, or its settings cannot be read.
        """
        settings = [self._runs.get(name).settings().to_dict() for name in names]
        shown = [item for item in setting_fields() if item.group in SHOWN_GROUPS]
        values = ((item, tuple(one[item.name] for one in settings)) for item in shown)
        return [(item, found) for item, found in values if len(set(found)) > 1]

    def copy(self, name: str) -> CopiedForm:
        """A run's settings for the form. The preset is left out: the values that it gave are all there."""
        run = self._runs.get(name)
        settings = run.settings()
        is_sample = settings.train_file == str(SAMPLE_TRAIN_FILE)
        return CopiedForm(
            values=_form_values(settings),
            file=None if is_sample else settings.train_file,
            columns={column: str(getattr(settings, column) or "") for column in COLUMNS},
            pins=tuple(read_pins(run)),
        )

    def rename(self, name: str, new_name: str) -> str:
        """Gives a run another name, and returns that.

        Raises:
            ChatGLMError: it is being trained, or the name is taken or cannot be one.
        """
        return care.rename(self._runs, name, "-".join(new_name.split())).name

    def set_note(self, name: str, text: str) -> None:
        care.write_note(self._runs.get(name), text.strip())

    def pin(self, name: str, prompts: list[str]) -> list[str]:
        """Has prompts answered at every checkpoint to come; returns those that are pinned now.

        Raises:
            ChatGLMError: they are too many or too long.
        """
        run = self._runs.get(name)
        write_pins(run, prompts)
        return read_pins(run)

    def delete(self, name: str) -> None:
        """Deletes a run for good.

        Raises:
            ChatGLMError: it is being trained.
        """
        care.delete(self._runs, name)


def _form_values(settings: TrainingSettings) -> dict[str, Any]:
    offered = [item for item in setting_fields() if item.group in SHOWN_GROUPS and item.name not in DECIDED_BY_PAGE]
    values = settings.to_dict()
    form: dict[str, Any] = {item.name: values[item.name] for item in offered}
    form |= {name: values[name] for name in BUILT_APART}
    form["preset"] = None
    if settings.trains_all_weights:  # which is a choice of its own there, and has no length
        form.pop("pre_seq_len")
    return {**form, LEARNS: ALL_WEIGHTS if settings.trains_all_weights else PREFIX}
