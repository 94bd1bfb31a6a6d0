"""A layer's fused operations, and the norm, equal the plain ones, gradients included. Needs a CUDA GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from small_models import build_model
from torch import Tensor

from chatglm2.kernels.layer.choice import find_layer_kernels
from chatglm2.model.modeling import RMSNorm, RotaryEmbedding, rotate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SHAPE = {"num_attention_heads": 32, "kv_channels": 64, "hidden_size": 256, "ffn_hidden_size": 400, "seq_length": 1024}
DTYPES = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gate_equals_silu_times_the_other_half(dtype: torch.dtype) -> None:
    mixed = torch.randn(3, 7, 2 * 1500, device="cuda")
    halves = [mixed.to(dtype).requires_grad_(), mixed.to(dtype).float().requires_grad_()]
    layer_kernels = find_layer_kernels(halves[0])
    assert layer_kernels is not None
    gate, up = halves[1].chunk(2, dim=-1)
    found, expected = layer_kernels.gate(halves[0]), F.silu(gate) * up
    outer = torch.randn_like(expected)
    found.backward(outer.to(dtype))
    expected.backward(outer.to(dtype).float())
    assert relative_error(found, expected) < TOLERANCE[dtype]
    assert halves[0].grad is not None and halves[1].grad is not None
    assert relative_error(halves[0].grad, halves[1].grad) < TOLERANCE[dtype]
    overwritten = halves[0].detach().clone()
    assert layer_kernels.gate_gradient_(overwritten, outer.to(dtype)) is overwritten
    assert torch.equal(overwritten, halves[0].grad)


@needs_gpu
@pytest.mark.parametrize("prefix_length", [0, 5])
@pytest.mark.parametrize("rows", [1, 3])
def test_rotation_and_prefix_equal_the_plain_operations(prefix_length: int, rows: int) -> None:
    model = build_model(**SHAPE)
    heads, groups, channels, length = 32, model.config.multi_query_group_num, 64, 9
    positions = torch.arange(4, 4 + length, device="cuda").expand(rows, -1)
    rotation = RotaryEmbedding(model.config).to("cuda")(positions[:1] if rows == 1 else positions)
    mixed = torch.randn(rows, length, heads + 2 * groups, channels, device="cuda").half().requires_grad_()
    prefix = torch.randn(2, rows, groups, prefix_length, channels, device="cuda").half().requires_grad_()
    layer_kernels = find_layer_kernels(mixed)
    assert layer_kernels is not None
    found = layer_kernels.rotate_and_join(mixed, rotation, prefix if prefix_length else None, groups)
    turning, value = mixed.split((heads + groups, groups), dim=2)
    query, key = rotate(turning, rotation).transpose(1, 2).split((heads, groups), dim=1)
    expected = [query, torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value.transpose(1, 2)), dim=2)]
    outers = [torch.randn_like(tensor) for tensor in expected]
    inputs = [mixed, prefix] if prefix_length else [mixed]
    gradients = [torch.autograd.grad(results, inputs, outers) for results in (found, expected)]
    for one, other in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) < 1e-3


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_rounds_once(dtype: torch.dtype) -> None:
    norm = RMSNorm(4096, 1e-5).to("cuda", dtype)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = 3 * torch.randn(64, 4096, device="cuda", dtype=dtype)
    plain = F.rms_norm(x.float(), (4096,), norm.weight.float(), 1e-5).to(dtype)
    assert torch.equal(norm(x), plain)


@needs_gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_a_half_precision_training_step_equals_single_precision(recompute: bool) -> None:
    gradients = []
    for dtype in (torch.float32, torch.float16):
        torch.manual_seed(0)
        model = build_model(**SHAPE)
        encoder = model.prepare_prefix_tuning(6)
        encoder.dropout.p = 0.0
        model.to("cuda", dtype)
        encoder.float()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        ids = torch.arange(60, device="cuda").view(3, 20) % 100 + 5
        model(ids, labels=torch.where(ids % 3 == 0, -100, ids)).loss.backward()
        assert encoder.embedding.weight.grad is not None
        gradients.append(encoder.embedding.weight.grad)
    assert relative_error(gradients[1], gradients[0]) < 2e-2


def test_a_cpu_keeps_the_plain_operations() -> None:
    assert find_layer_kernels(torch.zeros(1, dtype=torch.float16)) is None
