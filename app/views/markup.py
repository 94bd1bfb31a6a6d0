"""HTML from the templates beside this module, and figures as people read them.

What a template is given is escaped, unless it is `Markup` already: a figure, or what another template made.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.text.languages import Speech

TEMPLATES = Path(__file__).parent / "templates"
GIB = 2**30
MIB = 2**20

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> Markup:
    """The HTML that ``template`` makes of ``values``."""
    return Markup(_environment.get_template(f"{template}.html").render(values))


def format_bytes(count: int) -> str:
    """Megabytes up to a gigabyte, then gigabytes."""
    if count < MIB:
        return f"{count / 1024:.0f} KB"
    return f"{count / MIB:.1f} MB" if count < GIB else f"{count / GIB:.1f} GB"


def format_duration(seconds: float, speech: Speech) -> str:
    """Seconds up to a minute and a half, then minutes, then hours and minutes."""
    if seconds < 90:
        return speech("duration_seconds", seconds=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 90:
        return speech("duration_minutes", minutes=minutes)
    return speech("duration_hours", hours=minutes // 60, minutes=minutes % 60)


def format_time(moment: float | datetime) -> str:
    """Local time, to the minute."""
    when = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment)
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def percent_of(fraction: float | None) -> int | None:
    """A fraction as a bar shows it; None where nothing can be counted."""
    return None if fraction is None else max(0, min(100, round(100 * fraction)))
