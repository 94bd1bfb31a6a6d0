"""The page's clock: one request tells every part what is new.

Knows who wants to be told, and how often to ask. A browser asks once a second while something runs and every few
seconds else; a page that nobody sees asks nothing, and asks at once when it is looked at again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.tabs.access import is_open_to_all, open_to_all
from app.tabs.listening import QUIET

logger = logging.getLogger(__name__)

BUSY_SECONDS, IDLE_SECONDS = 1, 3
CLOCK_SCRIPT = """
let asked = Date.now();
const look = () => {
  const pause = 1000 * Number(element.querySelector("[data-seconds]")?.dataset.seconds ?? 1);
  if (document.hidden || Date.now() - asked < pause) return;
  asked = Date.now();
  trigger("click");
};
setInterval(look, 500);
document.addEventListener("visibilitychange", look);
"""
Updates = dict[Any, Any]


@dataclass(frozen=True)
class _Part:
    """A handler of one part of the page, with what it reads and writes."""

    handler: Callable[..., Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    takes_request: bool

    def tell(self, values: Updates, request: gr.Request) -> Updates:
        told = [values[component] for component in self.inputs]
        result = self.handler(*told, request) if self.takes_request else self.handler(*told)
        if result == gr.skip():
            return {}
        if isinstance(result, dict) and "__type__" not in result:  # an update of one component is a dictionary, too
            return result
        return dict(zip(self.outputs, result if isinstance(result, tuple) else (result,), strict=True))


class Clock:
    """Built like a component; parts that it tells say so by :meth:`tick`, and :meth:`bind` starts it."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self.is_busy = is_busy
        self.face = gr.HTML(_face(BUSY_SECONDS), elem_id="clock", js_on_load=CLOCK_SCRIPT)
        self.pause = gr.State(BUSY_SECONDS)
        self.parts: list[_Part] = []

    def tick(
        self, handler: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], **_listening: Any
    ) -> None:
        """Tells ``handler`` at every tick, as a timer would; every visitor's page ticks, so it must be open to all."""
        if not is_open_to_all(handler):
            raise ValueError(f"{handler} is called for every visitor: mark it with open_to_all, or let it be clicked.")
        takes_request = "request" in inspect.signature(handler).parameters
        self.parts.append(_Part(handler, inputs, outputs, takes_request))

    def bind(self) -> None:
        """Starts to tell all parts that are known by now."""
        inputs = {self.pause, *(component for part in self.parts for component in part.inputs)}
        told = [component for part in self.parts for component in part.outputs]
        outputs = list(dict.fromkeys([self.face, self.pause, *told]))
        self.face.click(self.on_tick, inputs, outputs, trigger_mode="once", **QUIET)

    @open_to_all
    def on_tick(self, values: Updates, request: gr.Request) -> Updates:
        updates: Updates = {self.pause: gr.skip()}
        for part in self.parts:
            try:
                updates |= part.tell(values, request)
            except Exception:  # of one part; the others go on
                logger.exception("A part of the page could not be brought up to date")
        pause = BUSY_SECONDS if self.is_busy() else IDLE_SECONDS
        if pause != values[self.pause]:
            updates |= {self.pause: pause, self.face: _face(pause)}
        return updates


def _face(seconds: int) -> str:
    return f'<i data-seconds="{seconds}"></i>'
