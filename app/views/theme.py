"""Looks: the Gradio theme, the stylesheets and the script that runs before anything else on the page."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

STYLES = Path(__file__).resolve().parents[2] / "assets" / "styles"
FAVICON = STYLES / "favicon.svg"
SANS = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")
FLAT = dict.fromkeys(
    (
        *("block_shadow", "block_shadow_dark", "input_shadow", "input_shadow_dark", "checkbox_label_shadow"),
        *("button_primary_shadow", "button_secondary_shadow", "button_secondary_shadow_hover"),
        *("button_primary_shadow_hover", "button_primary_shadow_dark", "button_secondary_shadow_dark"),
    ),
    "none",
)
COLOURS = {
    "body_background_fill": "*neutral_50",
    # Text has a contrast of at least 4.5 to 1 with what lies behind it, in both themes.
    "body_text_color_subdued": "*neutral_500",
    "body_text_color_subdued_dark": "*neutral_400",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_600",
    "checkbox_label_background_fill_selected_dark": "*primary_600",
    "input_background_fill_dark": "*neutral_900",
    "button_cancel_background_fill": "#dc2626",
    "button_cancel_background_fill_hover": "#b91c1c",
    "button_cancel_background_fill_dark": "#b91c1c",
    "button_cancel_background_fill_hover_dark": "#dc2626",
    "button_cancel_text_color": "white",
    "button_cancel_border_color": "#dc2626",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_600",
    "button_border_width": "1px",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_600",
    "checkbox_border_color": "*neutral_400",
    "checkbox_border_color_dark": "*neutral_500",
    "block_title_background_fill": "transparent",
    "block_title_background_fill_dark": "transparent",
    "block_title_text_color": "*body_text_color",
    "block_title_text_color_dark": "*body_text_color",
    "block_title_text_weight": "500",
    "block_title_padding": "0",
    "block_border_width": "1px",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "*neutral_700",
    "block_info_text_color": "*neutral_500",
    "block_info_text_color_dark": "*neutral_400",
}


def build_theme() -> gr.themes.Base:
    """Fonts come from the reader's system, so that nothing is fetched."""
    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="md",
        font=list(SANS),
        font_mono=list(MONO),
    )
    return theme.set(**FLAT, **COLOURS)


def stylesheets() -> list[Path]:
    return [STYLES / name for name in ("page.css", "library.css", "data.css")]


def export_stylesheet() -> str:
    return (STYLES / "export.css").read_text(encoding="utf-8")


def page_scripts() -> list[str]:
    """What runs once the page has loaded."""
    return [(STYLES / name).read_text(encoding="utf-8") for name in ("page.js", "reach.js", "compare.js")]


def head_script(language: str, cookie: str) -> str:
    """Fixes the page's language before Gradio asks the browser for it, and remembers it for the server."""
    script = (STYLES / "head.js").read_text(encoding="utf-8")
    settings = f"window.pageLanguage={json.dumps(language)};window.languageCookie={json.dumps(cookie)};"
    return f"<script>{settings}{script}</script>"
