"""The engine behind ``model.chat()``: one a model, made at first use, made anew where it no longer fits.

Knows one model's weights by their marks. Knows no text and no conversation.

Who asks holds the engine for as long as the reply takes; a newer one ends nobody's reply. The engine computes with the
model's modules and does not hold the model itself, so that with the last reference to a model its engine goes, too.
"""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

from chatglm2.serving.engine import Engine

if TYPE_CHECKING:
    from chatglm2.model.modeling import ChatGLMForConditionalGeneration

# The attribute of a model that holds its `OwnEngine`; `chatglm2.registration` gives the class one.
ATTRIBUTE = "chat_engine"


class OwnEngine:
    """Holds a model's engine. A copy of the model gets one of its own."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._mark: tuple[Any, ...] = ()
        self._lock = threading.Lock()

    def __deepcopy__(self, _: dict[int, Any]) -> OwnEngine:
        return OwnEngine()

    def __reduce__(self) -> tuple[type[OwnEngine], tuple[()]]:
        return OwnEngine, ()

    def get(self, model: ChatGLMForConditionalGeneration, length: int) -> Engine:
        """The engine for the model's weights as they are now, with room for ``length`` tokens of prompt and reply."""
        with self._lock:
            mark = _mark_of(model)
            engine, self._engine = self._engine, None  # where making the next one fails, there is none
            if engine is None or engine.is_closed or engine.max_length < length or self._mark != mark:
                engine = None  # before the next one takes memory; whoever reads from it holds it until the end
                engine = Engine(_without_engine(model), slots=1, max_length=length)
            self._engine, self._mark = engine, mark
            return engine


def own_engine(model: ChatGLMForConditionalGeneration, length: int) -> Engine:
    """The engine behind ``model.chat``, with room for ``length`` tokens; ask anew for every reply."""
    owner: OwnEngine | None = getattr(model, ATTRIBUTE)
    if owner is None:
        owner = model.__dict__.setdefault(ATTRIBUTE, OwnEngine())  # of two threads, both get the first one's
    return owner.get(model, length)


def _without_engine(model: ChatGLMForConditionalGeneration) -> ChatGLMForConditionalGeneration:
    """The same modules and weights in another object, which does not hold the model's engine."""
    bare = copy.copy(model)
    bare.__dict__.pop(ATTRIBUTE, None)
    return bare


def _mark_of(model: ChatGLMForConditionalGeneration) -> tuple[Any, ...]:
    """What changes with the weights, whoever changes them: where they lie, what they are, how often written.

    A prefix inside the model is none of them: the engine is given it with every request.
    """
    encoder = model.transformer.prefix_encoder
    apart = {id(tensor) for tensor in encoder.parameters()} if encoder is not None else set()
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in apart]
    return tuple(
        (tensor.data_ptr(), tensor.dtype, tensor.shape, 0 if tensor.is_inference() else tensor._version)
        for tensor in tensors
    )
