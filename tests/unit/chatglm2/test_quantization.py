"""Quantized weights keep the original's layout, every backend agrees with plain torch, and only activations learn."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from small_models import build_model
from tiny_checkpoint import write_tiny_checkpoint
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from chatglm2 import load_model
from chatglm2.errors import CheckpointError, QuantizationError
from chatglm2.kernels.availability import find_triton
from chatglm2.kernels.quantized import cpm
from chatglm2.kernels.quantized.backend import Backend, TorchBackend, extract
from chatglm2.kernels.quantized.choice import choose_backend, compress_int4
from chatglm2.kernels.quantized.cpu import MOST_ROWS, CpuBackend
from chatglm2.kernels.quantized.layout import PackedWeight, dequantize, pack_int4, unpack_int4
from chatglm2.model.quantization import (
    QuantizedLinear,
    quantizable_linears,
    quantize_model,
    quantize_rows,
    quantize_weight,
)

HALF_DTYPES = (torch.float16, torch.bfloat16)
# Rounding of the result to fp16 or bf16, and of the activations on the way.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_triton = pytest.mark.skipif(
    not (torch.cuda.is_available() and find_triton()), reason="needs a CUDA GPU and Triton"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("dense"))


def random_weight(
    rows: int, columns: int, bits: int, group_size: int | None, dtype: torch.dtype, device: str = "cpu"
) -> PackedWeight:
    generator = torch.Generator().manual_seed(rows + columns + bits)
    dense = torch.randn(rows, columns, generator=generator) / columns**0.5
    return quantize_weight(dense.to(device), bits, group_size, dtype=dtype)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())


def check_against_exact(backend: Backend, tokens: int) -> None:
    """Compare product and input gradient with fp64 ones of the dequantized weight."""
    weight, dtype = backend.weight, backend.dtype
    device = weight.integers.device
    exact = PackedWeight(weight.integers, weight.scale.double(), weight.bits)
    dense = dequantize(exact).cpu()
    x = torch.randn(tokens, weight.columns, device=device).to(dtype)
    bias = torch.randn(weight.rows, device=device).to(dtype)
    gradient = torch.randn(tokens, weight.rows, device=device).to(dtype)
    product = backend.matmul(x, bias)
    assert product.dtype == dtype
    assert relative_error(product, x.double().cpu() @ dense.T + bias.double().cpu()) < TOLERANCE[dtype]
    assert relative_error(backend.matmul(x, None), x.double().cpu() @ dense.T) < TOLERANCE[dtype]
    assert relative_error(backend.input_gradient(gradient), gradient.double().cpu() @ dense) < TOLERANCE[dtype]


def test_int4_puts_the_first_of_two_columns_into_the_high_nibble() -> None:
    row = torch.tensor([[7, -7, 1, -1, 0, 5, -3, 2]], dtype=torch.int8)
    assert pack_int4(row).view(torch.uint8).tolist() == [[0x79, 0x1F, 0x05, 0xD2]]


def test_unpacking_is_the_inverse_of_packing() -> None:
    integers = torch.randint(-8, 8, (5, 32), dtype=torch.int8)
    assert torch.equal(unpack_int4(pack_int4(integers)), integers)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
def test_a_row_of_zeros_stays_zero(bits: int, dtype: torch.dtype) -> None:
    weight = torch.randn(3, 8).to(dtype)
    weight[1] = 0
    integers, scale = quantize_rows(weight, bits)
    assert integers[1].eq(0).all() and scale[1] == 0
    assert integers.abs().max() == 2 ** (bits - 1) - 1


def test_a_scale_that_vanishes_in_half_precision_gives_zeros() -> None:
    integers, scale = quantize_rows(torch.full((1, 8), 1e-7).half(), 8)
    assert scale.isfinite().all() and integers.eq(0).all()


@pytest.mark.parametrize(("bits", "bound"), [(4, 0.5), (8, 0.5)])
@pytest.mark.parametrize("group_size", [None, 64])
def test_the_error_of_a_weight_is_at_most_half_a_step(bits: int, bound: float, group_size: int | None) -> None:
    dense = torch.randn(16, 128)
    weight = quantize_weight(dense, bits, group_size)
    steps = (dequantize(weight) - dense).unflatten(1, (-1, group_size or 128)).abs() / weight.scale.view(16, -1, 1)
    assert steps.max() <= bound + 1e-4


def test_a_scale_for_each_group_is_more_accurate_than_one_a_row() -> None:
    dense = torch.randn(64, 1024)
    error = [relative_error(dequantize(quantize_weight(dense, 4, size)), dense.double()) for size in (None, 128, 64)]
    assert error[0] > error[1] > error[2]


def test_quantizing_in_blocks_of_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = torch.randn(37, 64)
    whole = quantize_weight(dense, 4)
    monkeypatch.setattr("chatglm2.model.quantization.BLOCK_BYTES", 5 * 64 * 4)
    parts = quantize_weight(dense, 4)
    assert torch.equal(whole.integers, parts.integers) and torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize(
    ("columns", "bits", "group_size", "word"),
    [(64, 3, None, "4 or 8"), (64, 4, 32, "64 or 128"), (96, 4, 64, "divides"), (7, 4, None, "even")],
)
def test_what_cannot_be_quantized_is_refused(columns: int, bits: int, group_size: int | None, word: str) -> None:
    with pytest.raises(QuantizationError, match=word):
        quantize_weight(torch.randn(4, columns), bits, group_size)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 64])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
def test_the_torch_backend_multiplies_by_the_dequantized_weight(
    bits: int, group_size: int | None, dtype: torch.dtype
) -> None:
    check_against_exact(TorchBackend(random_weight(96, 128, bits, group_size, dtype), dtype), tokens=5)


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (4, 64), (4, 128), (8, None)])
@pytest.mark.parametrize("tokens", [1, 3, MOST_ROWS + 1])
def test_the_cpu_backend_agrees(bits: int, group_size: int | None, tokens: int) -> None:
    weight = random_weight(192, 256, bits, group_size, torch.bfloat16)
    assert CpuBackend.supports(weight, torch.bfloat16)
    check_against_exact(CpuBackend(weight, torch.bfloat16), tokens)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 20])
def test_the_cpu_backend_takes_memory_that_starts_anywhere(bits: int, tokens: int) -> None:
    """As a file does that is mapped by safetensors; torch's INT8 kernel itself crashes there."""
    weight = random_weight(192, 256, bits, None, torch.bfloat16)
    moved, x = (
        torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)
        for tensor in (weight.integers, torch.randn(tokens, 256).bfloat16())
    )
    product = CpuBackend(PackedWeight(moved, weight.scale, bits), torch.bfloat16).matmul(x, None)
    assert relative_error(product, x.double() @ dequantize(weight).double().T) < TOLERANCE[torch.bfloat16]


def test_the_cpu_backend_agrees_where_it_does_not_know_torchs_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatglm2.kernels.quantized.cpu._is_wide", lambda: False)
    check_against_exact(CpuBackend(random_weight(192, 256, 4, None, torch.bfloat16), torch.bfloat16), tokens=1)


@needs_triton
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 64, 128])
@pytest.mark.parametrize("dtype", HALF_DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 16, 17, 64, 200])
def test_the_triton_backend_agrees(bits: int, group_size: int | None, dtype: torch.dtype, tokens: int) -> None:
    from chatglm2.kernels.quantized.triton_backend import TritonBackend

    weight = random_weight(272, 640, bits, group_size, dtype, "cuda")  # whole tiles in neither direction
    assert TritonBackend.supports(weight)
    check_against_exact(TritonBackend(weight, dtype), tokens)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 64])
def test_the_triton_programs_that_the_interpreter_runs_agree(
    kernel_device: str, bits: int, group_size: int | None
) -> None:
    """Products of few rows with INT4, and of one row, unpack in inline assembly, which the interpreter has not."""
    from chatglm2.kernels.quantized.triton_backend import TritonBackend

    weight = random_weight(40, 128, bits, group_size, torch.float16, kernel_device)
    backend = TritonBackend(weight, torch.float16)
    exact = dequantize(PackedWeight(weight.integers, weight.scale.double(), bits)).cpu()
    assert relative_error(backend.dense(), exact) < TOLERANCE[torch.float16]
    gradient = torch.randn(3, 40).half()
    found = backend.fused_input_gradient(gradient.to(kernel_device))
    assert relative_error(found, gradient.double() @ exact) < TOLERANCE[torch.float16]
    if bits == 8:
        x, bias = torch.randn(3, 128).half(), torch.randn(40).half()
        product = backend.fused_matmul(x.to(kernel_device), bias.to(kernel_device))
        assert relative_error(product, x.double() @ exact.T + bias.double()) < TOLERANCE[torch.float16]


@needs_triton
@pytest.mark.parametrize("shape", [(4608, 4096), (4096, 4096), (27392, 4096), (4096, 13696)])
def test_the_triton_backend_agrees_at_the_real_shapes(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, 4, None, torch.float16, "cuda")
    for tokens in (1, 2, 8, 16):
        check_against_exact(choose_backend(weight, torch.float16), tokens)


@needs_triton
@pytest.mark.parametrize("group_size", [None, 64])
def test_a_large_weight_is_unpacked_in_halves_for_the_gradient(group_size: int | None) -> None:
    weight = random_weight(27392, 4096, 4, group_size, torch.float16, "cuda")
    backend = choose_backend(weight, torch.float16)
    gradient = torch.randn(2100, 27392, device="cuda").half()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = backend.input_gradient(gradient)
    needed = torch.cuda.max_memory_allocated() - before - found.nbytes
    assert needed < 0.6 * 27392 * 4096 * 2
    expected = gradient.float() @ dequantize(weight).float()
    assert relative_error(found, expected.double().cpu()) < 2e-3


@needs_triton
def test_large_activations_do_not_overflow_on_the_way() -> None:
    weight = random_weight(128, 4096, 4, None, torch.float16, "cuda")
    small = PackedWeight(weight.integers, weight.scale / 64, 4)
    x = torch.randn(2, 4096, device="cuda").half() * 4000
    expected = x.double() @ dequantize(PackedWeight(small.integers, small.scale.double(), 4)).T
    assert relative_error(choose_backend(small, torch.float16).matmul(x, None), expected.cpu()) < 2e-3


@needs_cuda
@pytest.mark.parametrize("group_size", [None, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
def test_cpm_extracts_what_torch_does(bits: int, group_size: int | None, dtype: torch.dtype) -> None:
    weight = random_weight(48, 256, bits, group_size, dtype, "cuda")
    if not cpm.can_extract(weight.integers, weight.scale):
        pytest.skip("cpm_kernels is not installed, or finds no NVRTC")
    assert torch.equal(extract(weight), dequantize(weight))


@needs_cuda
def test_cpm_packs_what_torch_does() -> None:
    integers = torch.randint(-7, 8, (48, 256), dtype=torch.int8, device="cuda")
    if not cpm.can_pack(integers):
        pytest.skip("cpm_kernels is not installed, or finds no NVRTC")
    assert torch.equal(compress_int4(integers), pack_int4(integers))


def test_without_cpm_kernels_weights_are_unpacked_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpm, "find_launcher", lambda: None)
    weight = random_weight(16, 64, 4, None, torch.float32)
    assert torch.equal(extract(weight), dequantize(weight))


def test_a_missing_fast_backend_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    from chatglm2.kernels.quantized import choice

    choice._say_slow.cache_clear()
    weight = random_weight(16, 64, 4, None, torch.float32)
    with caplog.at_level(logging.WARNING, logger="chatglm2.kernels"):
        backends = [choose_backend(weight, torch.float32) for _ in range(3)]
    assert all(isinstance(backend, TorchBackend) for backend in backends)
    assert len(caplog.records) == 1


def test_a_quantized_linear_passes_gradients_to_its_input_and_keeps_none() -> None:
    linear = nn.Linear(64, 32)
    quantized = QuantizedLinear.like(linear, 4, None)
    quantized.quantize_from(linear.weight.detach(), torch.float32, torch.device("cpu"))
    quantized.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    x = torch.randn(2, 3, 64, requires_grad=True)
    quantized(x).square().sum().backward()
    dense = dequantize(PackedWeight(quantized.weight, quantized.weight_scale, 4))
    y = x.detach() @ dense.T + linear.bias
    assert torch.allclose(x.grad, 2 * y.detach() @ dense, atol=1e-5)
    assert not list(filter(lambda parameter: parameter.requires_grad, quantized.parameters()))
    assert quantized.bias.grad is None


def test_nothing_dense_is_kept_for_the_backward_pass() -> None:
    quantized = QuantizedLinear(64, 32, 4, bias=False)
    quantized.quantize_from(torch.randn(32, 64), torch.float32, torch.device("cpu"))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        quantized(torch.randn(2, 64, requires_grad=True))
    assert not kept


def test_loading_a_state_dict_reaches_a_linear_that_has_been_used() -> None:
    first, second = (QuantizedLinear(64, 64, 4, bias=False, dtype=torch.bfloat16) for _ in range(2))
    for linear in (first, second):
        linear.quantize_from(torch.randn(64, 64), torch.bfloat16, torch.device("cpu"))
    x = torch.randn(1, 64).bfloat16()
    first(x)
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), second(x))


def test_quantizing_a_model_replaces_four_linears_a_layer_and_nothing_else(checkpoint: Path) -> None:
    model = load_model(checkpoint, dtype="fp32", device="cpu")
    dense = copy.deepcopy(model)
    assert quantize_model(model, 8) is model
    quantized = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert len(quantized) == 4 * model.config.num_layers
    assert all(".layers." in name for name in quantized)
    assert model.config.quantization_bit == 8
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert relative_error(model(ids).logits, dense(ids).logits.double()) < 0.05


def test_quantizing_twice_is_the_same_or_refused(checkpoint: Path) -> None:
    model = load_model(checkpoint, dtype="fp32", quantization_bit=4, device="cpu")
    assert quantize_model(model, 0) is model
    before = [module for _, _, module in quantizable_linears(model)]
    assert quantize_model(model, 4) is model
    assert [module for _, _, module in quantizable_linears(model)] == before
    with pytest.raises(QuantizationError, match="4 bits already"):
        quantize_model(model, 8)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantizing_on_load_is_quantizing_what_was_loaded(checkpoint: Path, bits: int) -> None:
    on_load = load_model(checkpoint, dtype="fp32", quantization_bit=bits, device="cpu")
    afterwards = quantize_model(load_model(checkpoint, dtype="fp32", device="cpu"), bits)
    expected = afterwards.state_dict()
    assert on_load.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in on_load.state_dict().items())


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (8, None), (4, 64)])
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
def test_transformers_loads_a_quantized_checkpoint(
    tmp_path: Path, bits: int, group_size: int | None, auto: type[AutoModel]
) -> None:
    model = build_model(hidden_size=64, ffn_hidden_size=128).bfloat16().quantize(bits, group_size)
    model.save_pretrained(tmp_path)
    ids = torch.arange(5, 14).unsqueeze(0)
    for dtype in ("auto", torch.float32):
        again = auto.from_pretrained(tmp_path, trust_remote_code=False, dtype=dtype)
        quantized = [module for _, _, module in quantizable_linears(again)]
        assert all(isinstance(module, QuantizedLinear) and module.weight.dtype == torch.int8 for module in quantized)
        assert again.dtype == quantized[0].weight_scale.dtype == (torch.bfloat16 if dtype == "auto" else dtype)
        assert again.state_dict().keys() == model.state_dict().keys()
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor.to(model.state_dict()[name].dtype), model.state_dict()[name])
    with torch.no_grad():
        assert torch.equal(auto.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_quantize_is_the_originals_and_always_returns_the_model(checkpoint: Path) -> None:
    model = load_model(checkpoint, dtype="fp32", device="cpu")
    assert model.quantize(0) is model and not model.config.quantization_bit
    assert model.quantize(8) is model and model.config.quantization_bit == 8
    assert model.quantize(8) is model  # the original says "Already quantized." and returns it, too
    packed = model.transformer.encoder.layers[0].mlp.dense_4h_to_h
    assert model.half() is model and (packed.weight.dtype, packed.weight_scale.dtype) == (torch.int8, torch.float16)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_saved_quantized_checkpoint_loads_again(checkpoint: Path, tmp_path: Path, bits: int) -> None:
    model = load_model(checkpoint, dtype="bf16", quantization_bit=bits, device="cpu")
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, dtype="bf16", device="cpu")
    assert again.config.quantization_bit == bits
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    for asked in (4, 8):
        if asked != bits:
            with pytest.raises(QuantizationError, match="need the original weights"):
                load_model(tmp_path, quantization_bit=asked, device="cpu")


def test_weights_that_are_quantized_unlike_config_json_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint, dtype="fp32", quantization_bit=8, device="cpu")
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="is int8, but config"):
        load_model(tmp_path, device="cpu")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # its successor is new in 5.23
@pytest.mark.parametrize("bits", [4, 8])
def test_a_prefix_learns_over_a_quantized_model(checkpoint: Path, bits: int) -> None:
    model = load_model(checkpoint, dtype="fp32", quantization_bit=bits, device="cpu")
    encoder = model.prepare_prefix_tuning(3)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.tensor([[5, 6, 7, 8]])
    model.train()(ids, labels=ids).loss.backward()
    assert encoder.embedding.weight.grad is not None and encoder.embedding.weight.grad.norm() > 0
