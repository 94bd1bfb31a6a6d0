"""Decoding with Triton kernels equals the model's modules; with CUDA graphs where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from small_models import build_model, build_prefix

from chatglm2 import Engine, Request, SamplingParams
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch, PromptPart
from chatglm2.serving.runners.module import ModuleRunner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: a graph is captured there")

SHAPE = {"num_attention_heads": 32, "kv_channels": 64, "hidden_size": 256, "ffn_hidden_size": 400, "seq_length": 1024}


# Small enough for the interpreter, with a share of three query heads a group.
TINY = {"num_attention_heads": 6, "num_layers": 2}


@torch.inference_mode()
def test_a_decode_step_equals_the_modules(kernel_device: str) -> None:
    from chatglm2.kernels.layer.rotation import Places
    from chatglm2.serving.runners.gpu import GpuPasses

    model = build_model(**TINY).to(kernel_device, torch.float16)
    cache = SlotCache(model.config, model.dtype, model.device, slots=5, capacity=64)
    cache.keys.normal_(generator=torch.Generator(kernel_device).manual_seed(0))
    cache.values.normal_(generator=torch.Generator(kernel_device).manual_seed(1))
    slots, columns = [0, 2, 4], [4, 17, 60]
    positions = [max(0, column - 3) for column in columns]
    ids = torch.tensor([5, 90, 17], device=kernel_device)
    expected = ModuleRunner(model, cache).decode(DecodeBatch(ids, slots, positions, columns)).float()
    places = Places(*torch.tensor([positions, columns, slots], device=kernel_device))
    found = GpuPasses(model, cache, 64).step(ids, places).float()
    assert (found - expected).norm() / expected.norm() < 3e-3


@torch.inference_mode()
def test_prompts_behind_one_another_equal_the_modules(kernel_device: str) -> None:
    from chatglm2.serving.runners.gpu import GpuPasses

    model = build_model(**TINY).to(kernel_device, torch.float16)
    caches = [SlotCache(model.config, model.dtype, model.device, slots=3, capacity=64) for _ in range(2)]
    for cache in caches:
        cache.write_prefix(0, build_prefix(5, **TINY))
    passes = (ModuleRunner(model, caches[0]), GpuPasses(model, caches[1], 64))
    for parts in (
        [PromptPart(range(7, 17), 0, 0, 5)],
        [PromptPart(range(4), 2, 0, 0), PromptPart(range(40, 46), 0, 10, 5)],
    ):
        expected, found = (one.prefill(parts).float() for one in passes)
        assert (found - expected).norm() / expected.norm() < 5e-3


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_a_captured_step_equals_the_modules(dtype: torch.dtype) -> None:
    from chatglm2.serving.runners.graph import GraphRunner

    model = build_model(**SHAPE).to("cuda", dtype)
    cache = SlotCache(model.config, model.dtype, model.device, slots=5, capacity=1024)
    cache.keys.normal_(generator=torch.Generator("cuda").manual_seed(0))
    cache.values.normal_(generator=torch.Generator("cuda").manual_seed(1))
    runner = GraphRunner(model, cache, 1024)
    for slots, columns in (([3], [900]), ([0, 1], [17, 17]), ([0, 2, 4], [4, 170, 1000]), ([4, 3, 2, 1, 0], [63] * 5)):
        ids = torch.tensor([column % 128 for column in columns], device="cuda")
        batch = DecodeBatch(ids, slots, [max(0, column - 3) for column in columns], columns)
        expected = ModuleRunner(model, cache).decode(batch).float()
        error = (runner.decode(batch).float() - expected).norm() / expected.norm()
        assert error < (2e-2 if dtype == torch.bfloat16 else 3e-3)


@needs_gpu
@torch.inference_mode()
def test_unpadded_prompts_equal_the_modules() -> None:
    from chatglm2.serving.runners.graph import GraphRunner

    model = build_model(**SHAPE).to("cuda", torch.float16)
    caches = [SlotCache(model.config, model.dtype, model.device, slots=3, capacity=1024) for _ in range(2)]
    runners = (ModuleRunner(model, caches[0]), GraphRunner(model, caches[1], 1024))
    for cache in caches:  # after capturing, which writes into the first slot
        for slot, prefix in ((0, build_prefix(5, **SHAPE)), (2, build_prefix(9, seed=2, **SHAPE))):
            cache.write_prefix(slot, prefix)
    for parts in (
        [PromptPart(range(7, 97), 0, 0, 5)],
        [PromptPart(range(30), 1, 0, 0), PromptPart(range(20, 24), 2, 0, 9), PromptPart(range(40), 0, 90, 5)],
    ):
        expected, found = (runner.prefill(parts).float() for runner in runners)
        assert (found - expected).norm() / expected.norm() < 1e-2


@needs_gpu
def test_the_engine_serves_mixed_prefixes_with_graphs() -> None:
    model = build_model(**SHAPE).to("cuda", torch.float16)
    engine = Engine(model, slots=4)
    assert engine._runner.runs_ahead
    sampling = SamplingParams(temperature=0, max_new_tokens=12)
    prefixes = [None, build_prefix(3, **SHAPE), build_prefix(9, seed=2, **SHAPE)]
    requests = [Request(list(range(5, 5 + length)), prefix, sampling) for length in (3, 30) for prefix in prefixes]
    together = [list(stream) for stream in [engine.submit(request) for request in requests]]
    assert all(len(answer) == 12 for answer in together)
    # In half precision a near tie may fall otherwise, so only the first tokens must agree with the modules.
    for request, answer in zip(requests, together, strict=True):
        ids = torch.tensor([request.prompt_ids], device="cuda")
        logits = model(ids, prefix=request.prefix, logits_to_keep=1).logits[0, -1].float()
        assert logits[answer[0]] >= logits.max() - 0.05 * logits.std()
    engine.close()


@needs_gpu
def test_conversations_come_and_go_under_the_same_graphs() -> None:
    """Memory is taken from idle conversations and given to others, and no captured step notices."""
    model = build_model(**SHAPE).to("cuda", torch.float16)
    engine = Engine(model, slots=3, max_length=900)
    requests = [
        Request([(7 * index + first) % 100 + 3 for index in range(40 + 300 * first)], prefix, SamplingParams(0.0))
        for first, prefix in ((0, None), (1, build_prefix(9, **SHAPE)), (2, None))
    ]
    expected = [list(engine.submit(request)) for request in requests]
    assert engine._room.taken > 0
    borrower = object()
    engine.lend(2**20, borrower)
    assert engine._room.taken == 0
    again = [engine.submit(request) for request in reversed(requests)]
    assert [list(stream) for stream in reversed(again)] == expected
    engine.lend(2**20, borrower)  # once more: what is found in a slot is not computed again, which rounds otherwise
    engine.take_back(borrower)
    assert [list(engine.submit(request)) for request in requests] == expected
    engine.close()
