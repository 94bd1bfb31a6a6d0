"""ChatGLM2 and its P-Tuning v2 prefixes as a library.

    import chatglm2

    model = chatglm2.load_model("THUDM/chatglm2-6b")
    tokenizer = chatglm2.load_tokenizer("THUDM/chatglm2-6b")
    prefix = chatglm2.load_prefix("output/my-run/checkpoint-40", model.config)
    response, history = model.chat(tokenizer, "你好", history=[], prefix=prefix)

Importing it registers the classes with transformers' Auto classes, so that ``AutoModel.from_pretrained`` loads a
ChatGLM2 checkpoint without remote code.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from chatglm2.checkpoints.loading import load_model, load_tokenizer
from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import ChatGLMError
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.model.prefix import Prefix, PrefixEncoder, load_prefix, save_prefix
from chatglm2.sampling import SamplingParams
from chatglm2.serving.chat import ChatSession
from chatglm2.serving.engine import Engine
from chatglm2.serving.request import Request
from chatglm2.text.decoder import IncrementalDecoder
from chatglm2.text.tokenizer import ChatGLMTokenizer

AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)
AutoModel.register(ChatGLMConfig, ChatGLMForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(ChatGLMConfig, slow_tokenizer_class=ChatGLMTokenizer, exist_ok=True)

__all__ = [
    "ChatGLMConfig",
    "ChatGLMError",
    "ChatGLMForConditionalGeneration",
    "ChatGLMTokenizer",
    "ChatSession",
    "Engine",
    "IncrementalDecoder",
    "Prefix",
    "PrefixEncoder",
    "Request",
    "SamplingParams",
    "load_model",
    "load_prefix",
    "load_tokenizer",
    "save_prefix",
]
