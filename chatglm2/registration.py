"""What joins the rooms to one package and to transformers, done when the modules it needs are imported, whoever does.

Knows which modules to wait for; imports none of them by itself, so that ``import chatglm2`` loads no torch. Of two
modules either may be imported first, and from within the other: what is not whole yet is left to the hook of the one
that is whole later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook, wrap_function_wrapper

if TYPE_CHECKING:
    from torch import Tensor

    from chatglm2.model.modeling import ChatGLMForConditionalGeneration
    from chatglm2.serving.original_calls import History

AUTO = "transformers.models.auto"
REMOTE_TOKENIZER = "tokenization_chatglm.ChatGLMTokenizer"  # as the original's tokenizer_config.json names it


def register_hooks() -> None:
    """Let transformers' Auto classes load ChatGLM2 without remote code, and ChatGLM2 models ``chat``."""
    register_post_import_hook(_register_config, f"{AUTO}.configuration_auto")
    register_post_import_hook(_register_tokenizer, f"{AUTO}.tokenization_auto")
    register_post_import_hook(_register_model, f"{AUTO}.modeling_auto")
    register_post_import_hook(_register_model, "chatglm2.model.modeling")
    register_post_import_hook(_attach_chat, "chatglm2.model.modeling")


def _register_config(auto: ModuleType) -> None:
    from chatglm2.configuration import ChatGLMConfig

    auto.AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)


def _register_tokenizer(auto: ModuleType) -> None:
    from chatglm2.configuration import ChatGLMConfig
    from chatglm2.text.tokenizer import ChatGLMTokenizer

    auto.AutoTokenizer.register(ChatGLMConfig, slow_tokenizer_class=ChatGLMTokenizer, exist_ok=True)
    # For models transformers prefers a registered class to a checkpoint's own code; for tokenizers it does not.
    wrap_function_wrapper(auto, "get_class_from_dynamic_module", _find_tokenizer_class)


def _find_tokenizer_class(wrapped: Callable[..., Any], _: object, args: Any, kwargs: Any) -> Any:
    from chatglm2.text.tokenizer import ChatGLMTokenizer

    reference = str(args[0]).rpartition("--")[2]
    return ChatGLMTokenizer if reference == REMOTE_TOKENIZER else wrapped(*args, **kwargs)


def _register_model(_: ModuleType) -> None:
    from transformers.models.auto import modeling_auto as auto

    from chatglm2.configuration import ChatGLMConfig
    from chatglm2.model import modeling

    if not hasattr(modeling, "ChatGLMForConditionalGeneration"):  # it is being imported, and imports the Auto classes
        return
    for auto_class in (auto.AutoModel, auto.AutoModelForCausalLM, auto.AutoModelForSeq2SeqLM):
        auto_class.register(ChatGLMConfig, modeling.ChatGLMForConditionalGeneration, exist_ok=True)


def _attach_chat(modeling: ModuleType) -> None:
    """Give models the original's methods: the room that they are written in does not know conversations."""
    model_class = modeling.ChatGLMForConditionalGeneration
    model_class.chat = _chat
    model_class.stream_chat = _stream_chat
    model_class.stream_generate = _stream_generate
    model_class.chat_engine = None  # a model's own `OwnEngine` from its first chat on


def _chat(self: ChatGLMForConditionalGeneration, *arguments: Any, **options: Any) -> tuple[str, History]:
    """Answer a question; see `chatglm2.serving.original_calls.chat`."""
    from chatglm2.serving import original_calls

    return original_calls.chat(self, *arguments, **options)


def _stream_chat(self: ChatGLMForConditionalGeneration, *arguments: Any, **options: Any) -> Iterator[tuple[Any, ...]]:
    """Answer a question word by word; see `chatglm2.serving.original_calls.stream_chat`."""
    from chatglm2.serving import original_calls

    return original_calls.stream_chat(self, *arguments, **options)


def _stream_generate(self: ChatGLMForConditionalGeneration, *arguments: Any, **options: Any) -> Iterator[Tensor]:
    """Continue ids one token at a time; see `chatglm2.serving.original_calls.stream_generate`."""
    from chatglm2.serving import original_calls

    return original_calls.stream_generate(self, *arguments, **options)
