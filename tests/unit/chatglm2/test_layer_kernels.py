"""A layer's fused operations, and the norm, equal the plain ones, gradients included: on a GPU or interpreted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from small_models import build_model
from torch import Tensor

from chatglm2.kernels.layer.choice import find_layer_kernels
from chatglm2.model.attention import attend
from chatglm2.model.modeling import RMSNorm
from chatglm2.model.rotary import RotaryEmbedding, rotate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SHAPE = {"num_attention_heads": 32, "kv_channels": 64, "hidden_size": 256, "ffn_hidden_size": 400, "seq_length": 1024}
DTYPES = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def test_the_gate_equals_silu_times_the_other_half(kernel_device: str, kernel_dtype: torch.dtype) -> None:
    from chatglm2.kernels.layer.gate import apply_gate, gate, gate_gradient_

    mixed = torch.randn(3, 2, 2 * 1500, device=kernel_device)
    halves = [mixed.to(kernel_dtype).requires_grad_(), mixed.to(kernel_dtype).float().requires_grad_()]
    first, up = halves[1].chunk(2, dim=-1)
    found, expected = gate(halves[0]), F.silu(first) * up
    outer = torch.randn_like(expected)
    found.backward(outer.to(kernel_dtype))
    expected.backward(outer.to(kernel_dtype).float())
    assert relative_error(found, expected) < TOLERANCE[kernel_dtype]
    assert halves[0].grad is not None and halves[1].grad is not None
    assert relative_error(halves[0].grad, halves[1].grad) < TOLERANCE[kernel_dtype]
    assert torch.equal(apply_gate(halves[0].detach()), found)
    overwritten = halves[0].detach().clone()
    assert gate_gradient_(overwritten, outer.to(kernel_dtype)) is overwritten
    assert torch.equal(overwritten, halves[0].grad)


@pytest.mark.parametrize("prefix_length", [0, 5])
@pytest.mark.parametrize("rows", [1, 3])
def test_rotation_and_prefix_equal_the_plain_operations(kernel_device: str, prefix_length: int, rows: int) -> None:
    from chatglm2.kernels.layer.rotation import rotate_and_join

    heads, groups, channels, length = 6, 2, 16, 4
    positions = torch.arange(4, 4 + length, device=kernel_device).expand(rows, -1)
    config = build_model(kv_channels=channels).config
    rotation = RotaryEmbedding(config).to(kernel_device)(positions[:1] if rows == 1 else positions)
    mixed = torch.randn(rows, length, heads + 2 * groups, channels, device=kernel_device).half().requires_grad_()
    prefix = torch.randn(2, rows, groups, prefix_length, channels, device=kernel_device).half().requires_grad_()
    found = rotate_and_join(mixed, rotation, prefix if prefix_length else None, groups)
    turning, value = mixed.split((heads + groups, groups), dim=2)
    query, key = rotate(turning, rotation).transpose(1, 2).split((heads, groups), dim=1)
    expected = [query, torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value.transpose(1, 2)), dim=2)]
    outers = [torch.randn_like(tensor) for tensor in expected]
    inputs = [mixed, prefix] if prefix_length else [mixed]
    gradients = [torch.autograd.grad(results, inputs, outers) for results in (found, expected)]
    for one, other in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) < 1e-3


def test_rotated_tokens_are_stored_in_their_slots_and_nowhere_else(kernel_device: str) -> None:
    from chatglm2.kernels.layer.rotation import Places, rotate_and_store

    heads, groups, channels = 6, 2, 16
    config = build_model(kv_channels=channels).config
    angles = RotaryEmbedding(config).to(kernel_device)(torch.arange(30, device=kernel_device).unsqueeze(0))
    positions, columns, slots = torch.tensor([[3, 17, 4], [8, 17, 9], [2, 0, 2]], device=kernel_device).unbind()
    mixed = torch.randn(3, (heads + 2 * groups) * channels, device=kernel_device).half()
    keys, values = torch.full((2, 3, 20, groups, channels), 7.0, device=kernel_device).half()
    table = torch.view_as_real(angles[0, :, 0]).flatten(1).contiguous()
    query = rotate_and_store(mixed, table, Places(positions, columns, slots), keys, values)
    turning, value = mixed.view(3, 1, -1, channels).split((heads + groups, groups), dim=2)
    turned = rotate(turning, angles[0, positions].unsqueeze(1))[:, 0]
    assert relative_error(query, turned[:, :heads]) < 1e-3
    assert relative_error(keys[slots, columns], turned[:, heads:]) < 1e-3
    assert torch.equal(values[slots, columns], value[:, 0])
    for stored in (keys, values):
        stored[slots, columns] = 7.0
        assert stored.eq(7.0).all()


@pytest.mark.parametrize("adds", [False, True])
def test_the_fused_norm_adds_in_place_and_rounds_once(
    kernel_device: str, kernel_dtype: torch.dtype, adds: bool
) -> None:
    from chatglm2.kernels.layer.decoding import add_norm

    x, delta = (3 * torch.randn(2, 5, 70, device=kernel_device)).to(kernel_dtype)
    weight = torch.rand(70, device=kernel_device).to(kernel_dtype) + 0.5
    summed = x + delta if adds else x.clone()
    plain = F.rms_norm(summed.float(), (70,), weight.float(), 1e-5).to(kernel_dtype)
    found = add_norm(x, delta if adds else None, weight, 1e-5)
    assert torch.equal(x, summed)
    assert (found != plain).float().mean() < 5e-3


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_dense_product_equals_torchs(
    kernel_device: str, kernel_dtype: torch.dtype, rows: int, has_bias: bool
) -> None:
    from chatglm2.kernels.layer.decoding import dense_product

    x, weight, bias = (torch.randn(shape, device=kernel_device) for shape in ((rows, 70), (33, 70), (33,)))
    halves = [tensor.to(kernel_dtype) for tensor in (x, weight, bias)]
    expected = F.linear(*(tensor.double() for tensor in halves[: 2 + has_bias]))
    assert relative_error(dense_product(*halves[: 2 + has_bias]), expected) < TOLERANCE[kernel_dtype]


def test_attention_of_a_step_looks_at_each_rows_own_columns(kernel_device: str, kernel_dtype: torch.dtype) -> None:
    from chatglm2.kernels.layer.decoding import decode_attention

    keys, values = torch.randn(2, 3, 150, 2, 16, device=kernel_device).to(kernel_dtype)
    query = torch.randn(2, 6, 16, device=kernel_device).to(kernel_dtype)
    columns, slots = [0, 140], [2, 0]
    bias = torch.zeros(3, 150, device=kernel_device)
    bias[0, :5], bias[1], bias[2, 1:] = -0.7, float("nan"), float("nan")  # of other slots, or not yet looked at
    places = [torch.tensor(numbers, device=kernel_device) for numbers in (columns, slots)]
    found = decode_attention(query, keys, values, *places, bias)
    for row, (column, slot) in enumerate(zip(columns, slots, strict=True)):
        seen = [part[slot : slot + 1, : column + 1].transpose(1, 2).float() for part in (keys, values)]
        expected = attend(query[row, None, :, None].float(), *seen, bias[slot, None, None, None, : column + 1])
        assert relative_error(found[row], expected.flatten()) < TOLERANCE[kernel_dtype]


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
