"""Holds the one copy of the model that serves everybody, and loads it while the page is already there.

Knows how far loading is, and the sentence when it fails. Knows no Gradio.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatglm2.errors import ChatGLMError, EngineError

if TYPE_CHECKING:
    from chatglm2.checkpoints.hub import DownloadProgress
    from chatglm2.checkpoints.loading import LoadProgress
    from chatglm2.model.prefix import Prefix
    from chatglm2.serving.chat import ChatSession

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """What to load, and how."""

    path: str
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    device: str | None = None
    dtype: str | None = None
    quantization_bit: int | None = None
    slots: int | None = None
    max_length: int | None = None

    @property
    def name(self) -> str:
        """The model's short name: the last part of its path or hub id."""
        return Path(self.path).name or self.path


@dataclass(frozen=True)
class LoadingState:
    """``phase`` is "downloading", "loading", "preparing", "ready" or "failed"."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    error: ChatGLMError | None = field(default=None, compare=False)

    @property
    def fraction(self) -> float | None:
        """How much is done; None where there is nothing to count yet."""
        return self.done_bytes / self.total_bytes if self.total_bytes else None


class ModelHost:
    """Loads in a thread of its own; :meth:`session` answers once loading has succeeded."""

    def __init__(self, options: ModelOptions, on_ready: Callable[[], None] = lambda: None) -> None:
        self.options = options
        # Called from the loading thread: on a GPU before loading, which leaves cores idle, else at the end.
        self._on_ready = on_ready
        self._device: str | None = None
        self._state = LoadingState("loading")
        self._session: ChatSession | None = None
        self._finished = threading.Event()

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

    @property
    def device(self) -> str | None:
        """Where the model is, such as "cpu" or "cuda:0"; None until it is there."""
        return self._device

    @property
    def context_tokens(self) -> int | None:
        """How many tokens a prompt and its reply may have together; None until the model is there."""
        return None if self._session is None else self._session.engine.max_length

    def load_prefix(self, path: Path) -> Prefix:
        from chatglm2.model.prefix import load_prefix

        return load_prefix(path, self.session.engine.model.config)

    def close(self) -> None:
        if self._session is not None:
            self._session.engine.close()

    def _load(self) -> None:
        try:
            self._session = self._build_session()
            self._state = LoadingState("ready")
            logger.info("The model %s is ready.", self.options.path)
            self._on_ready()
        except ChatGLMError as error:
            self._fail(error)
        except Exception as error:
            # Out of memory, a driver, a full disk: whatever it is, the page has to say it instead of loading forever.
            logger.exception("Loading %s failed", self.options.path)
            self._fail(
                EngineError(f"Loading {self.options.path} failed: {error}", f"加载 {self.options.path} 失败：{error}")
            )
        finally:
            self._finished.set()

    def _build_session(self) -> ChatSession:
        # Imported here so that the page can answer while torch and transformers are still loading.
        import torch

        import chatglm2
        from chatglm2.checkpoints.loading import default_device
        from chatglm2.serving.chat import ChatSession
        from chatglm2.serving.engine import Engine

        options = self.options
        tokenizer = chatglm2.load_tokenizer(options.path, hub=options.hub)
        device = torch.device(options.device) if options.device else default_device()
        if device.type == "cuda":
            self._device = str(device)
            self._on_ready()
        model = chatglm2.load_model(
            options.path,
            dtype=options.dtype,
            quantization_bit=options.quantization_bit,
            device=options.device,
            hub=options.hub,
            progress=self._on_progress,
            shared=True,
        )
        self._device = str(model.device)
        self._state = LoadingState("preparing")
        engine = Engine(model, slots=options.slots, max_length=options.max_length)
        engine.open_to_borrowers()
        if engine.compile_seconds:
            logger.info("Compiling for %s took %.1f s.", model.device, engine.compile_seconds)
        return ChatSession(engine, tokenizer)

    def _on_progress(self, progress: DownloadProgress | LoadProgress) -> None:
        from chatglm2.checkpoints.hub import DownloadProgress

        if isinstance(progress, DownloadProgress):
            self._state = LoadingState("downloading", progress.received_bytes, progress.total_bytes)
        else:
            self._state = LoadingState("loading", progress.loaded_bytes, progress.total_bytes)

    def _fail(self, error: ChatGLMError) -> None:
        logger.error("%s\n%s", error.zh, error.en)
        self._state = LoadingState("failed", error=error)
