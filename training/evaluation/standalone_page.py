"""A page in one file, which a browser opens without a server. Knows the frame around it; not what stands in it."""

from __future__ import annotations

import html


def standalone_page(title: str, language: str, stylesheet: str, header: str, main: str) -> str:
    """The HTML of a page that loads nothing and runs no script.

    Args:
        title: plain text, above the page and in the browser's tab.
        language: ``en`` or ``zh``.
        stylesheet: CSS.
        header: HTML under the title.
        main: HTML of the rest.
    """
    title = html.escape(title)
    return f"""<!doctype html>
<html lang="{"zh-CN" if language == "zh" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{stylesheet}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{header}
</header>
<main>
{main}
</main>
</body>
</html>
"""
