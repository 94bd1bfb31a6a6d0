"""ChatGLM2 and its P-Tuning v2 prefixes as a library.

    import chatglm2

    model = chatglm2.load_model("THUDM/chatglm2-6b")
    tokenizer = chatglm2.load_tokenizer("THUDM/chatglm2-6b")
    prefix = chatglm2.load_prefix("output/my-run/checkpoint-40", model.config)
    response, history = model.chat(tokenizer, "你好", history=[], prefix=prefix)

Importing it makes ``AutoModel.from_pretrained`` load a ChatGLM2 checkpoint without remote code, and loads nothing else:
a name is imported from its room when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chatglm2.registration import register_hooks

if TYPE_CHECKING:
    from chatglm2.checkpoints.loading import load_model, load_tokenizer
    from chatglm2.configuration import ChatGLMConfig
    from chatglm2.errors import ChatGLMError
    from chatglm2.model.blending import PrefixBlend, average_prefixes, blend_prefixes
    from chatglm2.model.modeling import ChatGLMForConditionalGeneration
    from chatglm2.model.prefix import Prefix, PrefixEncoder, load_prefix, save_prefix
    from chatglm2.sampling import SamplingParams
    from chatglm2.serving.chat import ChatSession
    from chatglm2.serving.engine import Engine
    from chatglm2.serving.request import Request
    from chatglm2.text.decoder import IncrementalDecoder
    from chatglm2.text.tokenizer import ChatGLMTokenizer

__all__ = [
    "ChatGLMConfig",
    "ChatGLMError",
    "ChatGLMForConditionalGeneration",
    "ChatGLMTokenizer",
    "ChatSession",
    "Engine",
    "IncrementalDecoder",
    "Prefix",
    "PrefixBlend",
    "PrefixEncoder",
    "Request",
    "SamplingParams",
    "average_prefixes",
    "blend_prefixes",
    "load_model",
    "load_prefix",
    "load_tokenizer",
    "save_prefix",
]

_HOMES = {
    "ChatGLMConfig": "configuration",
    "ChatGLMError": "errors",
    "ChatGLMForConditionalGeneration": "model.modeling",
    "ChatGLMTokenizer": "text.tokenizer",
    "ChatSession": "serving.chat",
    "Engine": "serving.engine",
    "IncrementalDecoder": "text.decoder",
    "Prefix": "model.prefix",
    "PrefixBlend": "model.blending",
    "PrefixEncoder": "model.prefix",
    "Request": "serving.request",
    "SamplingParams": "sampling",
    "average_prefixes": "model.blending",
    "blend_prefixes": "model.blending",
    "load_model": "checkpoints.loading",
    "load_prefix": "model.prefix",
    "load_tokenizer": "checkpoints.loading",
    "save_prefix": "model.prefix",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_hooks()
