"""Integers, scales and products are the original's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chatglm2.kernels.quantized.choice import choose_backend
from chatglm2.kernels.quantized.layout import PackedWeight, unpack_int4
from chatglm2.model.quantization import quantize_rows, quantize_weight


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "vectors.safetensors")


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_and_scales_are_the_originals(vectors: dict[str, torch.Tensor], bits: int) -> None:
    integers, scale = quantize_rows(vectors["quant.weight"], bits)
    assert torch.equal(integers, vectors[f"quant.int{bits}.values"])
    assert torch.equal(scale, vectors[f"quant.int{bits}.scale"])


def test_packing_loses_nothing(vectors: dict[str, torch.Tensor]) -> None:
    packed = quantize_weight(vectors["quant.weight"], 4)
    assert torch.equal(unpack_int4(packed.integers), vectors["quant.int4.values"])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_products_are_the_originals(
    vectors: dict[str, torch.Tensor], bits: int, dtype: torch.dtype, tolerance: float
) -> None:
    quantized = quantize_weight(vectors["quant.weight"], bits)
    weight = PackedWeight(quantized.integers, quantized.scale.to(dtype), bits)
    product = choose_backend(weight, dtype).matmul(vectors["quant.input"].to(dtype), None)
    expected = vectors[f"quant.int{bits}.output"]
    assert (product.float() - expected).norm() / expected.norm() < tolerance
