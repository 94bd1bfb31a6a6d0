"""The reply to one request on its way from the engine to whoever reads it. Knows token ids; computes nothing."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from chatglm2.errors import ChatGLMError
from chatglm2.serving.request import FinishReason, Request


class Stream:
    """The reply to one request, token by token, as it is computed. Iterate over it once.

    `push` and `finish` are the engine's.

    Args:
        request: what is answered.
        cancel: told of the stream when its reader wants no more.
    """

    def __init__(self, request: Request, cancel: Callable[[Stream], None]) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self._cancel = cancel
        self._tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._error: ChatGLMError | None = None

    def __iter__(self) -> Iterator[int]:
        while (token := self._tokens.get()) is not None:
            yield token
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stop computing it; its slot is free for the next request. Does nothing once it has finished."""
        self._cancel(self)

    def push(self, token: int) -> None:
        """Hand a token to the reader."""
        self._tokens.put(token)

    def finish(self, reason: FinishReason, error: ChatGLMError | None = None) -> None:
        """End it; the first reason stays."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self._error = error
            self._tokens.put(None)
