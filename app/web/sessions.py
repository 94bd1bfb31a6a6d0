"""What the server keeps in memory for each open page, and that it goes when the page has gone.

Knows Gradio's own tables, which have no public way to be kept small.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from gradio.blocks import Block
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder

# Components by their class and what they were made with.
Alike = WeakValueDictionary[tuple[type[Block], bytes], Block]


class GradioSessions:
    """Gradio's tables. It keeps a closed page for ever, and calls that nobody reads."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self._blocks = blocks

    def names(self) -> set[str]:
        """Every session that something is kept for."""
        queue = self._blocks._queue
        tables: tuple[Any, ...] = (
            self._blocks.state_holder.session_data,
            queue.pending_event_ids_session,
            queue.pending_messages_per_session,
        )
        return {name for table in tables for name in list(table)}

    def unread(self, session: str) -> int:
        return len(self._blocks._queue.pending_event_ids_session.get(session, ()))

    async def forget(self, session: str) -> None:
        queue, states = self._blocks._queue, self._blocks.state_holder
        await queue.clean_events(session_hash=session)
        queue.pending_event_ids_session.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)
        states.session_data.pop(session, None)
        states.time_last_used.pop(session, None)


class LeanSession(SessionState):
    """A page's state without what Gradio keeps of every component for each page: some 0.8 MB.

    Half of that is a copy of every component's settings, for links to a page's state, which are not offered; making it
    takes 10 ms of everybody's time. The other half are components as updates have made them, which are alike in most
    pages: ``alike`` holds one of each.
    """

    def __init__(self, blocks: gr.Blocks, alike: Alike) -> None:
        nothing_to_copy: Any = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(nothing_to_copy)
        self._alike = alike

    def __setitem__(self, key: int, value: Any) -> None:
        known = self.blocks_config.blocks.get(key)
        if known is None or known.stateful:
            super().__setitem__(key, value)
            self.config_values.clear()
        elif value is not known:
            self.blocks_config.blocks[key] = self._one_of(value)

    def _one_of(self, component: Block) -> Block:
        arguments = repr(sorted(component.constructor_args.items())).encode(errors="replace")
        return self._alike.setdefault((type(component), hashlib.sha256(arguments).digest()), component)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class LeanSessions(StateHolder):
    """Gradio's table of sessions, with lean ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alike: Alike = WeakValueDictionary()

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = LeanSession(self.blocks, self._alike)
        return super().__getitem__(session_id)


def keep_sessions_lean(app: App) -> None:
    """Have ``app`` keep lean sessions from now on."""
    sessions = LeanSessions()
    sessions.set_blocks(app.get_blocks())
    app.state_holder = sessions
