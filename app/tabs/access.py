"""What a visitor may not do, as the page shows it, and which handlers are open to everybody.

The check itself stands at the server's entrance (`app.web.permissions`); a button that is greyed out keeps nobody out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from app.door.door import Visitor
from app.tabs.listening import QUIET
from app.tabs.translations import speech_for
from app.views.entrance import key_notice

VISITOR = "visitor"  # the key under which a request's scope holds who sent it
_OPEN = "open_to_all"
Handler = TypeVar("Handler", bound=Callable[..., Any])

# The field sends the key to the server, which answers with a cookie; the page is then built anew.
KEY_SCRIPT = """
element.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = element.querySelector("[role=alert]");
  const failure = await window.useKey(new FormData(event.target).get("key"));
  if (failure) problem.textContent = failure;
});
"""


def open_to_all(handler: Handler) -> Handler:
    """Marks a handler that only shows or chats; all others are the operator's."""
    setattr(handler, _OPEN, True)
    return handler


def is_open_to_all(handler: object) -> bool:
    return bool(getattr(handler, _OPEN, False))


def visitor_of(request: gr.Request | None) -> Visitor:
    """Who sent ``request``. Where nobody stands at the entrance, as in a test of handlers, they may do everything."""
    scope = getattr(getattr(request, "request", None), "scope", {})
    return scope.get(VISITOR) or Visitor("", may_change=True)


class OperatorControls:
    """A tab's note for visitors who may only watch, and the components that they then cannot use."""

    def __init__(self, elem_id: str) -> None:
        self.notice = gr.HTML(elem_id=elem_id, elem_classes="key-notice", js_on_load=KEY_SCRIPT)

    def bind(self, demo: gr.Blocks, components: list[Any], hidden: tuple[Any, ...] = ()) -> None:
        """Connects the note to ``components``; those ``hidden`` are of no use without them."""
        self.components, self.hidden = components, hidden
        demo.load(self.on_load, None, [self.notice, *components, *hidden], **QUIET)

    @open_to_all
    def on_load(self, request: gr.Request) -> dict[Any, Any]:
        visitor = visitor_of(request)
        if visitor.may_change:
            return {self.notice: gr.HTML(visible=False)}
        return {
            self.notice: key_notice(visitor, speech_for(request)),
            **dict.fromkeys(self.components, gr.update(interactive=False)),
            **dict.fromkeys(self.hidden, gr.update(visible=False)),
        }
