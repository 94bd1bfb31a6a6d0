"""The reply to one request on its way from the engine to whoever reads it. Knows token ids; computes nothing."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator

from chatglm2.errors import ChatGLMError
from chatglm2.serving.request import FinishReason, Request


class Stream:
    """The reply to one request, token by token, as it is computed.

    A token is handed out once: whoever reads again gets what has not been read, and the same end.

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
        self._ending = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        while (token := self._tokens.get()) is not None:
            yield token
        self._tokens.put(None)  # for the next reader
        if self._error is not None:
            raise copy.copy(self._error)  # an error grows by a traceback with each raising, and others have this one

    def cancel(self) -> None:
        """Stop computing it; its slot is free for the next request. Does nothing once it has finished."""
        self._cancel(self)

    def push(self, token: int) -> None:
        """Hand a token to the reader."""
        self._tokens.put(token)

    def finish(self, reason: FinishReason, error: ChatGLMError | None = None) -> None:
        """End it; the first reason stays."""
        with self._ending:
            if self.finish_reason is None:
                self._error = error
                self.finish_reason = reason
                self._tokens.put(None)
