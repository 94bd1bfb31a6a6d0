"""Holds the one copy of the model that serves everybody, and loads it while the page is already there.

Knows how far loading is, and the sentence when it fails. Knows no Gradio.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm2.errors import ChatGLMError, EngineError

if TYPE_CHECKING:
    from chatglm2.chat import ChatSession
    from chatglm2.prefix import Prefix

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """What to load, and how."""

    path: str
    hub: str = "huggingface"
    device: str | None = None
    dtype: str | None = None
    quantization_bit: int | None = None
    slots: int = 8
    max_length: int | None = None

    @property
    def name(self) -> str:
        """The model's short name: the last part of its path or hub id."""
        return Path(self.path).name or self.path


@dataclass(frozen=True)
class LoadingState:
    """``phase`` is "loading", "ready" or "failed"."""

    phase: str
    fraction: float | None = None  # None where there is nothing to count
    error: ChatGLMError | None = field(default=None, compare=False)


class ModelHost:
    """Loads in a thread of its own; :meth:`session` answers once loading has succeeded."""

    def __init__(self, options: ModelOptions) -> None:
        self.options = options
        self._state = LoadingState("loading")
        self._session: ChatSession | None = None
        self._finished = threading.Event()
        self._closed = False

    @property
    def state(self) -> LoadingState:
        return self._state

    def start(self) -> None:
        threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until loading has ended, well or not."""
        return self._finished.wait(timeout)

    @property
    def session(self) -> ChatSession:
        """The chat session on the loaded model.

        Raises:
            EngineError: the model is not there yet.
            ChatGLMError: loading failed; the reason it gave.
        """
        if self._state.error is not None:
            raise self._state.error
        if self._session is None:
            raise EngineError(
                "The model is still loading. Try again in a moment; the bar at the top shows how far it is.",
                "模型还在加载，请稍等片刻再试；页面顶部会显示进度。",
            )
        return self._session

    def load_prefix(self, path: Path) -> Prefix:
        from chatglm2.prefix import load_prefix

        return load_prefix(path, self.session.engine.model.config)

    def close(self) -> None:
        self._closed = True
        if self._session is not None:
            self._session.engine.close()

    def _load(self) -> None:
        try:
            self._session = self._build_session()
            self._state = LoadingState("ready", 1.0)
            logger.info("The model %s is ready.", self.options.path)
        except ChatGLMError as error:
            self._fail(error)
        except Exception as error:
            # Out of memory, a driver, a full disk: whatever it is, the page has to say it instead of loading forever.
            logger.exception("Loading %s failed", self.options.path)
            self._fail(EngineError(f"Loading {self.options.path} failed: {error}", f"加载 {self.options.path} 失败：{error}"))
        finally:
            self._finished.set()

    def _build_session(self) -> ChatSession:
        # Imported here so that the page can answer while torch and transformers are still loading.
        import chatglm2
        from chatglm2.chat import ChatSession
        from chatglm2.engine import Engine

        options = self.options
        tokenizer = chatglm2.load_tokenizer(options.path, hub=options.hub)
        model = chatglm2.load_model(
            options.path,
            dtype=options.dtype,
            quantization_bit=options.quantization_bit,
            device=options.device,
            hub=options.hub,
            progress=self._on_progress,
        )
        return ChatSession(Engine(model, slots=options.slots, max_length=options.max_length), tokenizer)

    def _on_progress(self, fraction: float) -> None:
        self._state = LoadingState("loading", fraction)

    def _fail(self, error: ChatGLMError) -> None:
        logger.error("%s", error)
        self._state = LoadingState("failed", error=error)
