"""A page in one file, which a browser opens without a server. Knows the frame around it; not what stands in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def standalone_page(title: str, language: str, stylesheet: str, header: str, main: str) -> str:
    """The HTML of a page that loads nothing and runs no script.

    Args:
        title: plain text, above the page and in the browser's tab.
        language: ``en`` or ``zh``.
        stylesheet: CSS.
        header: HTML under the title.
        main: HTML of the rest.
    """
    return render_page("standalone_page.html", title, language, stylesheet, header=Markup(header), main=Markup(main))


def render_page(template: str, title: str, language: str, stylesheet: str, **values: Any) -> str:
    """The page that a template in `TEMPLATES` makes of ``values``; all but markup is escaped."""
    page = _environment().get_template(template)
    return page.render(title=title, language=language, stylesheet=Markup(stylesheet), **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
