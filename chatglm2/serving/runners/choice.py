"""Which runner serves a model: all give the same logits as its modules (tested), some sooner."""

from __future__ import annotations

from chatglm2.kernels.availability import runs_triton
from chatglm2.memory.driver import has_virtual_memory
from chatglm2.model.modeling import ChatGLMForConditionalGeneration
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import Runner
from chatglm2.serving.runners.cpu import CpuRunner
from chatglm2.serving.runners.module import ModuleRunner


def runs_on_pages(model: ChatGLMForConditionalGeneration) -> bool:
    """Whether a model's runner looks at nothing but what a conversation holds, so that the rest needs no memory."""
    if not (runs_triton(model.device, model.dtype) and has_virtual_memory(model.device)):
        return False
    from chatglm2.serving.runners.graph import GraphRunner

    return GraphRunner.supports(model)


def build_runner(model: ChatGLMForConditionalGeneration, cache: SlotCache, max_length: int) -> Runner:
    """The fastest runner for the model's device and weights, for positions below ``max_length``."""
    if runs_triton(model.device, model.dtype):
        from chatglm2.serving.runners.graph import GraphRunner  # here, since only a GPU has what it imports

        if GraphRunner.supports(model):
            return GraphRunner(model, cache, max_length)
    if CpuRunner.supports(model):
        return CpuRunner(model, cache, max_length)
    return ModuleRunner(model, cache)
