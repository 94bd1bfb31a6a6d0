"""What can go wrong, as a small hierarchy.

    ChatGLMError
    ├── CheckpointError      a model directory, hub id or weight file that cannot be used
    │   └── HubError         the hub cannot be reached or does not have it
    ├── TokenizerError       a tokenizer file that cannot be read
    ├── PrefixError          a prefix checkpoint that is broken or does not fit the model
    ├── QuantizationError    a weight or backend that cannot be quantized
    ├── DeviceMemoryError    a device with too little free memory
    ├── ModelCallError       a call of the model with something that it does not take
    ├── PromptError          a prompt that cannot be answered
    ├── RequestError         a number of a request that is out of its range, or a prefix of another shape
    ├── EngineError          the engine stopped, or the model's numbers are broken
    ├── DataError            a data file with a mistake in it
    └── RunError             a training run that cannot be started, read or continued

Each carries one message in English and in Chinese, which says what was expected, what was found and what to do.
"""

from __future__ import annotations


class ChatGLMError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        en: the message in English; also what ``str()`` gives.
        zh: the same message in Chinese.
    """

    def __init__(self, en: str, zh: str) -> None:
        # Names from files may hold half a surrogate pair, which can be neither sent nor logged.
        self.en, self.zh = (text.encode(errors="replace").decode() for text in (en, zh))
        super().__init__(self.en)

    def __reduce__(self) -> tuple[type[ChatGLMError], tuple[str, str]]:
        # Exception's own __reduce__ would pass only the English message, and fail to unpickle.
        return type(self), (self.en, self.zh)

    def localized(self, language: str) -> str:
        """The message in ``language``: Chinese for any ``zh`` tag, English otherwise."""
        return self.zh if language.lower().startswith("zh") else self.en


class CheckpointError(ChatGLMError):
    """A model directory, hub id or weight file that cannot be used."""


class HubError(CheckpointError):
    """The hub cannot be reached, or does not have what was asked for."""


class TokenizerError(ChatGLMError):
    """A tokenizer file that cannot be read."""


class PrefixError(ChatGLMError):
    """A prefix checkpoint that is broken or does not fit the model."""


class QuantizationError(ChatGLMError):
    """A weight or a backend that cannot be quantized."""


class DeviceMemoryError(ChatGLMError):
    """A device has too little free memory for what was asked."""


class ModelCallError(ChatGLMError):
    """A call of the model with something that it does not take."""


class PromptError(ChatGLMError):
    """A prompt that cannot be answered, such as one longer than the context."""


class RequestError(ChatGLMError, ValueError):
    """A number that a reply is asked for with is out of its range, or a prefix is of another shape than the model's."""


class EngineError(ChatGLMError):
    """The engine has stopped, or the model's numbers are broken."""


class DataError(ChatGLMError):
    """A data file with a mistake in it."""


class RunError(ChatGLMError):
    """A training run that cannot be started, read or continued."""
