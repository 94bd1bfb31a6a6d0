"""A prefix's strength: 0 is the base bit for bit, 1 is the prefix, and every way of running the model agrees on it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from small_models import build_model, build_prefix
from torch import Tensor

from chatglm2 import ChatGLMForConditionalGeneration, Engine, Prefix, Request, SamplingParams
from chatglm2.errors import PrefixError
from chatglm2.model.blending import average_prefixes, blend_prefixes, flat_state
from chatglm2.model.prefix import load_prefix, save_prefix
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch, PromptPart, Runner
from chatglm2.serving.runners.cpu import CpuRunner
from chatglm2.serving.runners.module import ModuleRunner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: a graph is captured there")
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
PROMPT = list(range(20, 45))
FIRST, SECOND = build_prefix(5), build_prefix(3, seed=2)
GRAPH_SHAPE = {"num_attention_heads": 32, "kv_channels": 64, "hidden_size": 256, "ffn_hidden_size": 400}


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return build_model()


@pytest.fixture(scope="module")
def engine(model: ChatGLMForConditionalGeneration) -> Iterator[Engine]:
    engine = Engine(model, slots=3)
    yield engine
    engine.close()


def logits_of(model: ChatGLMForConditionalGeneration, *prefixes: Prefix | None) -> Tensor:
    """Of all positions, a row for each prefix."""
    with torch.inference_mode():
        return model(torch.tensor([PROMPT] * len(prefixes)), prefix=list(prefixes)).logits


def run(
    runner: Runner, cache: SlotCache, prefix: Prefix | None, slot: int = 0, second: list[int] = PROMPT, tokens: int = 3
) -> Tensor:
    """Logits after a prompt in two parts and after each of some more tokens, ``[2 + tokens, vocabulary]``."""
    cache.write_prefix(slot, prefix)
    length = prefix.length if prefix is not None else 0
    found = [runner.prefill([PromptPart(part, slot, start, length)]) for start, part in ((0, PROMPT[:9]), (9, second))]
    device = cache.keys.device
    for token in range(7, 7 + tokens):
        position = 9 + len(second) + token - 7
        batch = DecodeBatch(torch.tensor([token], device=device), [slot], [position], [position + length])
        found.append(runner.decode(batch).clone())
    return torch.cat(found)


def test_strength_is_how_often_each_token_of_the_prefix_counts(model, monkeypatch) -> None:
    monkeypatch.setattr("chatglm2.model.blending.MAXIMUM_STRENGTH", 3)
    repeated = Prefix(FIRST.key_values.repeat_interleave(3, dim=2))
    torch.testing.assert_close(logits_of(model, FIRST.at(3)), logits_of(model, repeated))


def test_strength_0_is_the_base_and_1_the_prefix_bit_for_bit(model) -> None:
    assert torch.equal(logits_of(model, FIRST.at(0)), logits_of(model, None))
    assert torch.equal(logits_of(model, FIRST.at(1)), logits_of(model, FIRST))
    assert torch.equal(logits_of(model, FIRST.at(0), FIRST), logits_of(model, None, FIRST))
    assert not torch.equal(logits_of(model, FIRST.at(0.5)), logits_of(model, FIRST))


def test_rows_of_unlike_strengths_do_not_disturb_each_other(model) -> None:
    together = logits_of(model, FIRST.at(0.3), None, SECOND, SECOND.at(1.4))
    for row, prefix in enumerate((FIRST.at(0.3), None, SECOND, SECOND.at(1.4))):
        torch.testing.assert_close(together[row : row + 1], logits_of(model, prefix))


def test_padded_rows_keep_their_strength(model) -> None:
    ids = torch.tensor([[0] * 4 + PROMPT, [3] * 4 + PROMPT])
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.inference_mode():
        padded = model(ids, attention_mask=mask, prefix=[FIRST.at(0.4), None]).logits[:1, 4:]
    torch.testing.assert_close(padded, logits_of(model, FIRST.at(0.4)))


@torch.inference_mode()
@pytest.mark.parametrize("kind", [CpuRunner, ModuleRunner])
def test_every_cpu_runner_weighs_a_prefix_as_the_modules_do(model, kind) -> None:
    cache = SlotCache(model.config, model.dtype, model.device, slots=2, capacity=64)
    runner = kind(model, cache, 64) if kind is CpuRunner else kind(model, cache)
    base, full = run(runner, cache, None), run(runner, cache, FIRST)
    assert torch.equal(run(runner, cache, FIRST.at(0)), base)
    assert torch.equal(run(runner, cache, FIRST.at(1)), full)
    found = run(runner, cache, FIRST.at(0.4))
    ids = torch.tensor([[*PROMPT[:9], *PROMPT, 7, 8, 9]])
    expected = model(ids, prefix=FIRST.at(0.4)).logits[0, [8, 33, 34, 35, 36]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(run(runner, cache, None), base), "a slot forgets the strength with the prefix"


@torch.inference_mode()
def test_triton_kernels_weigh_a_prefix_as_the_modules_do(kernel_device: str) -> None:
    from chatglm2.kernels.layer.rotation import Places
    from chatglm2.serving.runners.gpu import GpuPasses

    shape = {"num_attention_heads": 4, "num_layers": 1}  # the interpreter takes its time
    model = build_model(**shape).to(kernel_device, torch.float16)
    prefix = build_prefix(5, **shape)

    class Passes(GpuPasses):
        def decode(self, batch: DecodeBatch) -> Tensor:
            numbers = [batch.positions, batch.columns, batch.slots]
            return self.step(batch.ids, Places(*torch.tensor(numbers, device=kernel_device)))

    cache = SlotCache(model.config, model.dtype, model.device, slots=2, capacity=32)
    kernels, modules = Passes(model, cache, 32), ModuleRunner(model, cache)

    def answer(runner: Runner, choice: Prefix | None) -> Tensor:
        return run(runner, cache, choice, second=[5, 6], tokens=1)

    base = answer(kernels, None)
    found = answer(kernels, prefix.at(0.4))
    assert torch.equal(answer(kernels, prefix.at(0)), base)
    assert torch.equal(answer(kernels, prefix.at(1)), answer(kernels, prefix))
    expected = answer(modules, prefix.at(0.4)).float()
    assert (found.float() - expected).norm() / expected.norm() < 5e-3
    assert (found.float() - base.float()).norm() / base.float().norm() > 5e-2


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_a_captured_step_goes_on_with_another_strength(dtype: torch.dtype) -> None:
    from chatglm2.serving.runners.graph import GraphRunner

    model = build_model(**GRAPH_SHAPE).to("cuda", dtype)
    caches = [SlotCache(model.config, model.dtype, model.device, slots=3, capacity=256) for _ in range(2)]
    graphs, modules = GraphRunner(model, caches[0], 256), ModuleRunner(model, caches[1])
    prefix = build_prefix(90, **GRAPH_SHAPE)
    base, full = run(graphs, caches[0], None, 1), run(graphs, caches[0], prefix, 1)
    for strength in (0.05, 0.5, 1.5):
        found, expected = (
            run(one, cache, prefix.at(strength), 1).float()
            for one, cache in zip((graphs, modules), caches, strict=True)
        )
        assert (found - expected).norm() / expected.norm() < (2e-2 if dtype == torch.bfloat16 else 5e-3)
    assert torch.equal(run(graphs, caches[0], prefix.at(0), 1), base)
    assert torch.equal(run(graphs, caches[0], prefix.at(1), 1), full)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_on_a_gpu_strength_0_is_the_base_bit_for_bit_in_a_forward_pass(dtype: torch.dtype) -> None:
    model, prefix = build_model(**GRAPH_SHAPE).to("cuda", dtype), build_prefix(9, **GRAPH_SHAPE)
    ids = torch.tensor([PROMPT], device="cuda")
    with torch.inference_mode():
        base, found, half = (model(ids, prefix=[one]).logits for one in (None, prefix.at(0), prefix.at(0.5)))
        expected = build_model(**GRAPH_SHAPE)(ids.cpu(), prefix=prefix.at(0.5)).logits
    assert torch.equal(base, found)
    assert (half.cpu().float() - expected).norm() / expected.norm() < (1e-4 if dtype == torch.float32 else 1e-2)


def test_the_engine_equals_generate_at_every_strength(model, engine) -> None:
    both = blend_prefixes([(FIRST, 0.7), (SECOND, 1.2)])
    prefixes = [FIRST.at(0.4), FIRST.at(1), FIRST.at(0), None, both]
    streams = engine.submit_all([Request(PROMPT, prefix, GREEDY) for prefix in prefixes])
    answers = [list(stream) for stream in streams]
    ids = torch.tensor([PROMPT])
    for prefix, answer in zip(prefixes, answers, strict=True):
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, prefix=prefix
        )
        assert answer == expected[0, len(PROMPT) :].tolist()
    assert answers[2] == answers[3] != answers[1]


def test_a_conversation_at_another_strength_is_not_reused(model, engine) -> None:
    long = [3 + token % 90 for token in range(60)]
    for strength in (1.0, 0.2, 0.0, 1.0):
        before = engine.stats().reused_tokens
        answer = list(engine.submit(Request(long, FIRST.at(strength), GREEDY)))
        again = list(engine.submit(Request(long, FIRST.at(strength), GREEDY)))
        assert engine.stats().reused_tokens - before >= len(long) - 1
        assert answer == again
        alone = torch.tensor([long])
        with torch.inference_mode():
            first = model(alone, prefix=FIRST.at(strength), logits_to_keep=1).logits[0, -1].argmax()
        assert answer[0] == int(first)


def test_prefixes_side_by_side_are_one_longer_prefix(model) -> None:
    both = blend_prefixes([(FIRST, 1), (SECOND, 1)])
    joined = Prefix(torch.cat((FIRST.key_values, SECOND.key_values), dim=2))
    assert both.length == FIRST.length + SECOND.length
    assert torch.equal(logits_of(model, both), logits_of(model, joined))
    assert torch.equal(logits_of(model, blend_prefixes([(FIRST, 0), (SECOND, 1)])), logits_of(model, SECOND))
    halved = blend_prefixes([(FIRST, 0.5), (SECOND, 1)])
    assert torch.equal(halved.bias, torch.tensor([math.log(0.5)] * 5 + [0.0] * 3))
    assert blend_prefixes([(halved, 0.5)]).parts == ((FIRST, 0.25), (SECOND, 0.5))


def test_a_blend_is_known_by_its_prefixes_and_strengths() -> None:
    copy = Prefix(FIRST.key_values.clone())
    assert FIRST.at(1).identity == FIRST.identity == copy.identity
    assert FIRST.at(0.5).identity == copy.at(0.5).identity != FIRST.identity
    assert FIRST.at(0.5).short_hash == FIRST.short_hash
    ordered = {blend_prefixes(parts).identity for parts in ([(FIRST, 1), (SECOND, 1)], [(SECOND, 1), (FIRST, 1)])}
    assert len(ordered) == 2
    assert Request(PROMPT, FIRST.at(0)).prefix_hash is None


@pytest.mark.parametrize("strength", [-0.1, 1.51, math.nan, math.inf])
def test_what_is_no_strength_is_refused(strength: float) -> None:
    with pytest.raises(PrefixError, match=r"from 0 .* to 1\.5; found") as caught:
        FIRST.at(strength)
    assert "前缀强度应为 0" in caught.value.zh


def test_prefixes_of_unlike_models_or_lengths_are_refused() -> None:
    with pytest.raises(PrefixError, match="unlike models"):
        blend_prefixes([(FIRST, 1), (build_prefix(5, num_layers=2), 1)])
    with pytest.raises(PrefixError, match="one length, found 5, 3"):
        average_prefixes([FIRST, SECOND])


def test_a_mean_is_written_and_read_as_an_ordinary_checkpoint(model, tmp_path) -> None:
    mean = average_prefixes([FIRST, build_prefix(5, seed=7)])
    torch.testing.assert_close(mean.key_values, (FIRST.key_values + build_prefix(5, seed=7).key_values) / 2)
    save_prefix(flat_state(mean), tmp_path)
    assert torch.equal(load_prefix(tmp_path, model.config).key_values, mean.key_values)
