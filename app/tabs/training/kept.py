"""What a browser keeps of how its reader looks at runs.

Built before the tabs: what is built inside of one that nobody has opened yet is empty, whatever the browser kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import gradio as gr


def _kept(name: str) -> gr.BrowserState:
    return gr.BrowserState(None, storage_key=f"chatglm-{name}", secret="chatglm")


@dataclass(frozen=True)
class KeptLooks:
    """The step of pinned prompts that somebody went back to, and the runs beside the one that is looked at."""

    pinned: gr.BrowserState = field(default_factory=lambda: _kept("pinned"))
    overlay: gr.BrowserState = field(default_factory=lambda: _kept("overlay"))
