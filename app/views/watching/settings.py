"""A run's settings, as somebody reads them."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from app.text.languages import Speech
from app.training.care import RunDetails
from app.views.markup import format_time, render
from training.settings.field import SettingField, SettingValue


def settings_html(details: RunDetails, speech: Speech) -> Markup:
    """What was changed comes first; the rest can be opened."""
    return render(
        "run_settings",
        created=speech("created_at", time=format_time(details.created_at)),
        changed_title=speech("own_settings"),
        changed=_rows(details.changed, speech),
        others_title=speech("all_settings", count=len(details.others)),
        others=_rows(details.others, speech),
    )


def setting_text(item: SettingField, value: SettingValue, speech: Speech) -> str:
    """A value as a person reads it; of a file only its name."""
    if value is None or value == "":
        return "—"
    if isinstance(value, bool):
        return speech("setting_yes" if value else "setting_no")
    if isinstance(value, float):
        return f"{value:g}"
    if item.reads is not None or item.name == "model_name_or_path":
        return Path(str(value)).name
    return str(value)


def _rows(pairs: tuple[tuple[SettingField, SettingValue], ...], speech: Speech) -> list[tuple[str, str]]:
    return [(speech.pick(*item.label), setting_text(item, value, speech)) for item, value in pairs]
