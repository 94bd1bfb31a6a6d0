"""INT8 and INT4 weights in the original's layout, and the Linear that multiplies by them.

Knows how weights become integers and how a model gets them; leaves the fast ways to multiply to `chatglm2.kernels`.

The layout, for a Linear ``[out, in]``: ``weight`` is int8, ``[out, in]`` for INT8 and ``[out, in / 2]`` for INT4, where
a byte holds two columns, the first in its high nibble; ``weight_scale`` is ``[out]`` in the model's dtype. A weight is
``integer * scale``: symmetric, no zero point, integers from -127 to 127 or from -7 to 7.

An option that the original does not have: one scale for each group of 64 or 128 columns, ``weight_scale``
``[out, in / group]``, which makes INT4 more accurate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chatglm2.errors import QuantizationError
from chatglm2.kernels.quantized.backend import Backend
from chatglm2.kernels.quantized.choice import choose_backend, compress_int4
from chatglm2.kernels.quantized.layout import PackedWeight

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

SUPPORTED_BITS = (4, 8)
GROUP_SIZES = (64, 128)
# The Linears of a layer that are quantized, as in the original: not embedding, head, norms or prefix.
LAYER_LINEARS = (
    "self_attention.query_key_value",
    "self_attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)
# Bytes of a dense weight that are quantized at a time: what quantizing takes above its result is a few times this.
BLOCK_BYTES = 32 * 2**20


def quantize_rows(
    weight: Tensor, bits: int, group_size: int | None = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Integers ``[out, in]`` (int8) and scales, ``[out]`` or ``[out, in / group_size]``, of a dense weight.

    Scales are rounded to ``dtype``, the weight's own if not given, before they divide. The quotient is fp32, or fp16
    where both are, which gives the original's integers. A row of zeros gives zeros.
    """
    largest = 2 ** (bits - 1) - 1
    rows = weight if group_size is None else weight.unflatten(1, (-1, group_size))
    scale = (rows.abs().amax(-1) / largest).to(dtype or weight.dtype)
    as_original = scale.dtype == weight.dtype != torch.bfloat16
    working = weight.dtype if as_original else torch.float32
    divisor = torch.where(scale == 0, 1, scale).to(working).unsqueeze(-1)
    integers = (rows.to(working) / divisor).round_().clamp_(-largest, largest).to(torch.int8)
    return integers.view(weight.shape), scale


def quantize_weight(
    weight: Tensor,
    bits: int,
    group_size: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> PackedWeight:
    """A dense weight ``[out, in]`` quantized and packed on ``device``, a few rows at a time; scales in ``dtype``."""
    rows, columns = weight.shape
    check_quantizable(columns, bits, group_size)
    target = device or weight.device
    packed = torch.empty(rows, columns * bits // 8, dtype=torch.int8, device=target)
    scale = torch.empty(_scale_shape(rows, columns, group_size), dtype=dtype or weight.dtype, device=target)
    step = max(1, BLOCK_BYTES // (columns * weight.element_size()))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        integers, scale[block] = quantize_rows(weight[block].to(target), bits, group_size, dtype)
        packed[block] = compress_int4(integers) if bits == 4 else integers
    return PackedWeight(packed, scale, bits)


def check_quantizable(columns: int, bits: int, group_size: int | None) -> None:
    """Raise a `QuantizationError` that says what is possible, where this is not."""
    if bits not in SUPPORTED_BITS:
        raise QuantizationError(
            f"Weights can be quantized to 4 or 8 bits, not to {bits}. Ask for one of these, or leave the option out.",
            f"权重只能量化为 4 或 8 位，不支持 {bits} 位。请选择其中之一，或去掉该选项。",
        )
    if group_size is not None and (group_size not in GROUP_SIZES or columns % group_size):
        raise QuantizationError(
            f"A group of columns with a scale of its own has 64 or 128 columns and divides the weight's {columns:,}; "
            f"found {group_size}. Choose another size, or leave it out for one scale a row.",
            f"分组量化的组大小应为 64 或 128，并能整除权重的 {columns:,} 列，实际是 {group_size}。"
            "请换一个大小，或去掉该选项（每行一个缩放系数）。",
        )
    if columns * bits % 8:
        raise QuantizationError(
            f"INT4 packs two columns into a byte: expected an even number of columns, found {columns}. Use INT8.",
            f"INT4 把两列存入一个字节：列数应为偶数，实际是 {columns}。请使用 INT8。",
        )


def _scale_shape(rows: int, columns: int, group_size: int | None) -> tuple[int, ...]:
    return (rows,) if group_size is None else (rows, columns // group_size)


class _FrozenProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` with a gradient for ``x`` alone.

    Nothing dense is kept for the backward pass: the packed weight is there anyway, and is unpacked again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: Backend, bias: Tensor | None) -> Tensor:
        ctx.backend = backend
        return backend.matmul(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backend.input_gradient(gradients[0].contiguous()), None, None


class QuantizedLinear(nn.Module):
    """A frozen Linear with an INT8 or INT4 weight; its state dict is the original's.

    Args:
        in_features: columns of the dense weight.
        out_features: its rows.
        bits: 4 or 8.
        bias: whether there is one.
        group_size: columns that share a scale; a whole row if None.
        dtype: of scales and bias.
        device: where to allocate.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        *,
        bias: bool,
        group_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_quantizable(in_features, bits, group_size)
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        packed = torch.empty(out_features, in_features * bits // 8, dtype=torch.int8, device=device)
        shape = _scale_shape(out_features, in_features, group_size)
        self.register_buffer("weight", packed)
        self.register_buffer("weight_scale", torch.empty(shape, dtype=dtype, device=device))
        self.bias = (
            nn.Parameter(torch.empty(out_features, dtype=dtype, device=device), requires_grad=False) if bias else None
        )
        self._backend: Backend | None = None

    @classmethod
    def like(cls, linear: nn.Linear, bits: int, group_size: int | None) -> QuantizedLinear:
        """An empty one of the shape, dtype and device of ``linear``."""
        return cls(
            linear.in_features,
            linear.out_features,
            bits,
            bias=linear.bias is not None,
            group_size=group_size,
            dtype=linear.weight.dtype,
            device=linear.weight.device,
        )

    def quantize_from(self, dense: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Take the weight ``[out, in]``, which may lie on another device, and keep its scales in ``dtype``."""
        quantized = quantize_weight(dense, self.bits, self.group_size, dtype=dtype, device=device)
        self.weight, self.weight_scale = quantized.integers, quantized.scale

    def forward(self, x: Tensor) -> Tensor:
        backend = self._find_backend(x)
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled() and x.requires_grad:
            product = _FrozenProduct.apply(rows, backend, self.bias)
        else:
            product = backend.matmul(rows, self.bias)
        return product.view(*x.shape[:-1], self.out_features)

    def _find_backend(self, x: Tensor) -> Backend:
        """The backend made for the weight as it is now; moving or loading the module replaces its tensors."""
        backend = self._backend
        if backend is None or not backend.serves(self.weight, self.weight_scale, x.dtype):
            backend = choose_backend(PackedWeight(self.weight, self.weight_scale, self.bits), x.dtype)
            self._backend = backend
        return backend

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._backend = None  # it may hold the old weight in another form

    def extra_repr(self) -> str:
        group = "" if self.group_size is None else f", group_size={self.group_size}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}{group}, "
            f"bias={self.bias is not None}"
        )


def quantizable_linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | QuantizedLinear]]:
    """Parent, attribute and module of the four Linears of every layer, in order."""
    for name, module in list(model.named_modules()):
        parent_name, _, attribute = name.rpartition(".")
        if isinstance(module, nn.Linear | QuantizedLinear) and name.endswith(LAYER_LINEARS):
            yield model.get_submodule(parent_name), attribute, module


def replace_linears(model: nn.Module, bits: int, group_size: int | None = None) -> None:
    """Put empty quantized Linears in the dense ones' places, for weights that are still to come."""
    for parent, attribute, linear in quantizable_linears(model):
        assert isinstance(linear, nn.Linear)
        setattr(parent, attribute, QuantizedLinear.like(linear, bits, group_size))


def quantize_model(model: Model, bits: int, group_size: int | None = None) -> Model:
    """Quantize the layers of ``model`` in place, one weight at a time, and return it.

    0 bits leave it as it is. A model that is quantized so already is returned as it is, too.

    Raises:
        QuantizationError: for bits or groups that are not possible, or if it is quantized otherwise already.
    """
    if bits == 0:
        return model
    for parent, attribute, linear in quantizable_linears(model):
        if isinstance(linear, QuantizedLinear):
            _check_same(linear, bits, group_size)
            continue
        quantized = QuantizedLinear.like(linear, bits, group_size)
        quantized.quantize_from(linear.weight.detach(), linear.weight.dtype, linear.weight.device)
        if linear.bias is not None:
            quantized.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        setattr(parent, attribute, quantized)
    record_quantization(model, bits, group_size)
    return model


def record_quantization(model: nn.Module, bits: int, group_size: int | None) -> None:
    """Note it in the model's config, from where a saved checkpoint is read again."""
    config: Any = model.config
    config.quantization_bit = bits
    config.quantization_group_size = group_size


def _check_same(linear: QuantizedLinear, bits: int, group_size: int | None) -> None:
    if (linear.bits, linear.group_size) != (bits, group_size):
        raise QuantizationError(
            f"The model is quantized to {linear.bits} bits already (group size {linear.group_size}); "
            f"{bits} bits (group size {group_size}) need the original weights. Load the unquantized checkpoint.",
            f"模型已量化为 {linear.bits} 位（组大小 {linear.group_size}）；"
            f"要得到 {bits} 位（组大小 {group_size}）需要原始权重，请加载未量化的检查点。",
        )
