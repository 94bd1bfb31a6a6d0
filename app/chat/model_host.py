"""Holds the one copy of the model that serves everybody, and loads it while the page is already there.

Knows how far loading is, the sentence when it fails, and that an engine which breaks is started again. Knows no Gradio.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatglm2.errors import ChatGLMError, EngineError

if TYPE_CHECKING:
    from chatglm2.checkpoints.hub import DownloadProgress
    from chatglm2.checkpoints.loading import LoadProgress, ProgressCallback
    from chatglm2.model.modeling import ChatGLMForConditionalGeneration
    from chatglm2.model.prefix import Prefix
    from chatglm2.serving.chat import ChatSession
    from chatglm2.serving.engine import Engine

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
    rope_precision: str | None = None

    @property
    def name(self) -> str:
        """The model's short name: the last part of its path or hub id."""
        return Path(self.path).name or self.path


@dataclass(frozen=True)
class LoadingState:
    """How far the model is.

    Attributes:
        phase: "downloading", "loading", "preparing", "ready", "restarting" (its engine broke) or "failed".
        done_bytes: of what is downloaded or loaded.
        total_bytes: likewise; 0 where there is nothing to count.
        error: why it has failed.
    """

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
        self._closing = threading.Event()
        self._changing = threading.Lock()  # held to put a session in its place, or to close the host
        self._worker: threading.Thread | None = None  # which loads, or starts the engine again

    @property
    def state(self) -> LoadingState:
        return self._state

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._work(self._load, "load-model")

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until loading has ended, well or not."""
        return self._finished.wait(timeout)

    @property
    def session(self) -> ChatSession:
        """The chat session on the loaded model.

        Raises:
            EngineError: the model is not there yet, or its engine is being started again.
            ChatGLMError: loading failed; the reason it gave.
        """
        state, session = self._state, self._session
        if state.error is not None:
            raise copy.copy(state.error)  # an error grows by a traceback with each raising, and others have this one
        if session is None and state.phase == "restarting":
            raise EngineError(
                "The engine broke and is being started again. Ask again in a moment.",
                "推理引擎出了故障，正在重新启动，请稍后再问。",
            )
        if session is None:
            raise EngineError(
                "The model is still loading. Try again in a moment; the bar at the top shows how far it is.",
                "模型还在加载，请稍等片刻再试；页面顶部会显示进度。",
            )
        return session

    @property
    def is_ready(self) -> bool:
        """Whether the model is there."""
        return self._session is not None

    @property
    def device(self) -> str | None:
        """Where the model is, such as "cpu" or "cuda:0"; None until it is there."""
        return self._device

    @property
    def context_tokens(self) -> int | None:
        """How many tokens a prompt and its reply may have together; None until the model is there."""
        session = self._session
        return None if session is None else session.engine.max_length

    @property
    def rotary_angles(self) -> str:
        return self.session.engine.model.rotary_angles

    def load_prefix(self, path: Path) -> Prefix:
        from chatglm2.model.prefix import load_prefix

        return load_prefix(path, self.session.engine.model.config)

    def close(self, timeout: float | None = None) -> bool:
        """End every answer at once, then wait for what is being computed or loaded, ``timeout`` seconds at most.

        Returns:
            Whether all of it has ended.
        """
        began = time.monotonic()
        self._closing.set()
        with self._changing:
            session, worker = self._session, self._worker
        has_ended = session is None or session.engine.close(timeout)
        if worker is not None:
            worker.join(None if timeout is None else max(0.0, began + timeout - time.monotonic()))
            has_ended &= not worker.is_alive()
        return has_ended

    def _work(self, task: Callable[[], None], name: str) -> None:
        self._worker = threading.Thread(target=task, name=name, daemon=True)
        self._worker.start()

    def _serve(self, session: ChatSession) -> None:
        """Let the page have a session, unless it is closing."""
        with self._changing:
            if not self._closing.is_set():
                self._session, self._state = session, LoadingState("ready")
                return
        session.engine.close()

    def _load(self) -> None:
        try:
            self._serve(self._build_session())
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

        options = self.options
        tokenizer = chatglm2.load_tokenizer(options.path, hub=options.hub)
        device = torch.device(options.device) if options.device else default_device()
        if device.type == "cuda":
            self._device = str(device)
            self._on_ready()
        model = self.load_another(self._on_progress)
        self._device = str(model.device)
        self._state = LoadingState("preparing")
        return ChatSession(self._start_engine(model), tokenizer)

    def load_another(self, progress: ProgressCallback | None = None) -> ChatGLMForConditionalGeneration:
        """The page's model, read from its checkpoint anew; with one copy of the weights where that is possible."""
        import chatglm2

        options = self.options
        return chatglm2.load_model(
            options.path,
            dtype=options.dtype,
            quantization_bit=options.quantization_bit,
            device=options.device,
            hub=options.hub,
            progress=progress,
            shared=True,
            rope_precision=options.rope_precision,
        )

    def _start_engine(self, model: ChatGLMForConditionalGeneration) -> Engine:
        from chatglm2.serving.engine import Engine

        options = self.options
        engine = Engine(model, options.slots, options.max_length, on_failure=self._on_engine_failure)
        engine.open_to_borrowers()
        if engine.compile_seconds:
            logger.info("Compiling for %s took %.1f s.", model.device, engine.compile_seconds)
        return engine

    def _on_engine_failure(self, reason: ChatGLMError) -> None:
        """On the broken engine's own thread, whose readers have all been told: start another one on the same model."""
        logger.error("%s\n%s", reason.zh, reason.en)
        with self._changing:
            session, self._session = self._session, None
            if session is None or self._closing.is_set():
                return
            self._state = LoadingState("restarting")
            self._work(lambda: self._restart(session, reason), "restart-engine")

    def _restart(self, broken: ChatSession, reason: ChatGLMError) -> None:
        from chatglm2.serving.chat import ChatSession

        model = broken.engine.model
        try:
            broken.engine.close()
            self._serve(ChatSession(self._start_engine(model), broken.tokenizer))
            logger.info("The engine runs again.")
        except Exception as error:
            # A GPU that has lost its context, most likely: this process gets no other one.
            logger.exception("Starting the engine again failed")
            said = error if isinstance(error, ChatGLMError) else EngineError(str(error), str(error))
            self._fail(
                EngineError(
                    f"The engine broke and could not be started again. Start the page again. {reason.en} {said.en}",
                    f"推理引擎出了故障，且无法重新启动，请重新启动页面。{reason.zh}{said.zh}",
                )
            )

    def _on_progress(self, progress: DownloadProgress | LoadProgress) -> None:
        from chatglm2.checkpoints.hub import DownloadProgress

        if isinstance(progress, DownloadProgress):
            self._state = LoadingState("downloading", progress.received_bytes, progress.total_bytes)
        else:
            self._state = LoadingState("loading", progress.loaded_bytes, progress.total_bytes)

    def _fail(self, error: ChatGLMError) -> None:
        logger.error("%s\n%s", error.zh, error.en)
        self._state = LoadingState("failed", error=error)
