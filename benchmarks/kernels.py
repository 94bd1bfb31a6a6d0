"""Products with quantized weights at ChatGLM2-6B's shapes: time, bandwidth and error of every backend there is.

python -m benchmarks.kernels              # the GPU if there is one, then the CPU's decoding
python -m benchmarks.kernels --layers 3   # layers of the model that the CPU decodes with

GPU times are of CUDA graphs over several weights in turn, which together are larger than the cache, as in decoding. A
share is of the bandwidth that copying reaches on the same card, counting what is read and what is written.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import median_ratio, report, time_in_turns
from chatglm2 import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm2.kernels.availability import find_triton
from chatglm2.kernels.quantized import cpm
from chatglm2.kernels.quantized.backend import TorchBackend, extract
from chatglm2.kernels.quantized.choice import choose_backend
from chatglm2.kernels.quantized.layout import PackedWeight, dequantize
from chatglm2.model.quantization import quantize_model, quantize_weight

SHAPES = {
    "query_key_value": (4608, 4096),
    "dense": (4096, 4096),
    "dense_h_to_4h": (27392, 4096),
    "dense_4h_to_h": (4096, 13696),
}
# Weights in turn take this much memory: several times an H100's L2 cache.
ROTATED_BYTES = 240 * 2**20
COPIED_BYTES = 2**30
# A vocabulary this small keeps the head, which is not quantized, from outweighing a few layers.
CPU_VOCABULARY = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16", help="of activations on a GPU")
    arguments = parser.parse_args()
    with torch.inference_mode():
        if torch.cuda.is_available():
            measure_gpu(getattr(torch, arguments.dtype))
        measure_errors()
        compare_cpu_decoding(arguments.layers, arguments.rounds)


def measure_gpu(dtype: torch.dtype) -> None:
    """Every backend at every shape."""
    copy_bandwidth = measure_copy()
    report("kernels.copy", gigabytes_per_second=copy_bandwidth / 1e9)
    for layer, (rows, columns) in SHAPES.items():
        dense = torch.randn(rows, columns, device="cuda").to(dtype) / columns**0.5
        for bits, group_size in ((4, None), (4, 128), (4, 64), (8, None)):
            measure_few_rows(layer, dense, bits, group_size, copy_bandwidth)
        measure_dense(layer, dense, copy_bandwidth)
        measure_many_rows(layer, dense)
        measure_extraction(layer, dense, copy_bandwidth)


def measure_copy() -> float:
    """Bytes a second, read and written."""
    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / time_graph([lambda: target.copy_(source)])


def measure_few_rows(layer: str, dense: Tensor, bits: int, group_size: int | None, copy_bandwidth: float) -> None:
    """Decoding: bound by reading the weight."""
    weight = quantize_weight(dense, bits, group_size)
    size = weight.integers.numel() + weight.scale.numel() * weight.scale.element_size()
    exact = dequantize(PackedWeight(weight.integers, weight.scale.double(), bits))
    copies = [PackedWeight(weight.integers.clone(), weight.scale, bits) for _ in range(max(2, ROTATED_BYTES // size))]
    for tokens in (1, 2, 4, 8, 16):
        x = torch.randn(tokens, weight.columns, device="cuda", dtype=dense.dtype)
        backends = [choose_backend(copy, dense.dtype) for copy in copies]
        seconds = time_graph([lambda backend=backend, x=x: backend.matmul(x, None) for backend in backends])
        product, expected = backends[0].matmul(x, None).double(), x.double() @ exact.T
        report(
            "kernels.few_rows",
            layer=layer,
            backend=backends[0].name,
            bits=bits,
            group_size=group_size,
            tokens=tokens,
            dtype=str(dense.dtype),
            microseconds=seconds * 1e6,
            gigabytes_per_second=size / seconds / 1e9,
            share_of_copy_bandwidth=size / seconds / copy_bandwidth,
            relative_error=f"{float((product - expected).norm() / expected.norm()):.1e}",
        )


def measure_dense(layer: str, dense: Tensor, copy_bandwidth: float) -> None:
    """What the same product takes unquantized."""
    size = dense.numel() * dense.element_size()
    copies = [dense.clone() for _ in range(max(2, ROTATED_BYTES // size))]
    for tokens in (1, 8):
        x = torch.randn(tokens, dense.shape[1], device="cuda", dtype=dense.dtype)
        seconds = time_graph([lambda copy=copy, x=x: torch.nn.functional.linear(x, copy) for copy in copies])
        report(
            "kernels.unquantized",
            layer=layer,
            tokens=tokens,
            microseconds=seconds * 1e6,
            share_of_copy_bandwidth=size / seconds / copy_bandwidth,
        )


def measure_many_rows(layer: str, dense: Tensor) -> None:
    """Prompts and training: unpacking on the way against unpacking first."""
    if not find_triton():
        return
    from chatglm2.kernels.quantized.triton_backend import TritonBackend

    backend = TritonBackend(quantize_weight(dense, 4), dense.dtype)
    for tokens in (16, 64, 256, 2048):
        x = torch.randn(tokens, dense.shape[1], device="cuda", dtype=dense.dtype)
        gradient = torch.randn(tokens, dense.shape[0], device="cuda", dtype=dense.dtype)
        cases = {
            "fused": lambda x=x: backend.fused_matmul(x, None),
            "unpacked_first": lambda x=x: torch.nn.functional.linear(x, backend.dense()),
            "fused_gradient": lambda gradient=gradient: backend.fused_input_gradient(gradient),
            "unpacked_first_gradient": lambda gradient=gradient: gradient @ backend.dense(),
        }
        times = {f"{name}_microseconds": time_graph([case] * 3) * 1e6 for name, case in cases.items()}
        report("kernels.many_rows", layer=layer, tokens=tokens, bits=4, **times)


def measure_extraction(layer: str, dense: Tensor, copy_bandwidth: float) -> None:
    """The dense weight from the packed one, by cpm_kernels' launcher or torch, and by Triton."""
    weight = quantize_weight(dense, 4)
    cases: dict[str, Callable[[], Tensor]] = {"torch": lambda: dequantize(weight)}
    if cpm.can_extract(weight.integers, weight.scale):
        cases["cpm"] = lambda: extract(weight)
    if find_triton():
        cases["triton"] = choose_backend(weight, dense.dtype).dense
    moved = weight.integers.numel() + dense.numel() * dense.element_size()
    for backend, case in cases.items():
        seconds = time_graph([case] * 3)
        share = moved / seconds / copy_bandwidth
        report(
            "kernels.extract",
            layer=layer,
            backend=backend,
            microseconds=seconds * 1e6,
            share_of_copy_bandwidth=share,
        )


def time_graph(cases: list[Callable[[], object]]) -> float:
    """Seconds of one case, from CUDA graphs of all of them in turn."""
    from triton.testing import do_bench_cudagraph  # here, since only a GPU has it

    def run_all() -> None:
        for case in cases:
            case()

    return float(do_bench_cudagraph(run_all, return_mode="median")) / 1e3 / len(cases)


def measure_errors() -> None:
    """How far quantizing moves a weight of normal random numbers, ``|quantized - weight| / |weight|``."""
    dense = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0))
    for bits, group_size in ((8, None), (4, None), (4, 128), (4, 64)):
        weight = quantize_weight(dense, bits, group_size)
        error = float((dequantize(weight) - dense).norm() / dense.norm())
        report("kernels.weight_error", bits=bits, group_size=group_size, relative_error=error)


def compare_cpu_decoding(layers: int, rounds: int) -> None:
    """One decode step of a model of the real widths in bf16, and the same model in INT8 and INT4."""
    models = {}
    for name, bits in (("bf16", 0), ("int8", 8), ("int4", 4)):
        torch.manual_seed(0)
        config = ChatGLMConfig(num_layers=layers, padded_vocab_size=CPU_VOCABULARY)
        with torch.device("meta"):
            model = ChatGLMForConditionalGeneration(config)
        model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        models[name] = quantize_model(model, bits)
    ids, positions = torch.tensor([[5]]), torch.tensor([[0]])
    steps = {name: lambda model=model: model.transformer(ids, positions) for name, model in models.items()}
    seconds = time_in_turns(steps, rounds, warmup=2)
    report(
        "kernels.cpu_decoding",
        layers=layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        milliseconds={name: round(statistics.median(values) * 1e3, 2) for name, values in seconds.items()},
        bf16_over_int4=median_ratio(seconds["bf16"], seconds["int4"]),
        bf16_over_int8=median_ratio(seconds["bf16"], seconds["int8"]),
    )
    measure_cpu_products(rounds)


def measure_cpu_products(rounds: int) -> None:
    """torch's INT4 kernel against unpacking the weight first, by rows of activations."""
    rows, columns = SHAPES["dense"]
    weight = quantize_weight(torch.randn(rows, columns).bfloat16(), 4)
    packed, unpacking = choose_backend(weight, torch.bfloat16), TorchBackend(weight, torch.bfloat16)
    for tokens in (1, 16, 64, 256):
        x = torch.randn(tokens, columns).bfloat16()
        cases = {"packed": lambda x=x: packed.matmul(x, None), "unpacked": lambda x=x: unpacking.matmul(x, None)}
        seconds = time_in_turns(cases, rounds)
        report(
            "kernels.cpu_product",
            backend=packed.name,
            tokens=tokens,
            packed_milliseconds=statistics.median(seconds["packed"]) * 1e3,
            unpacked_first_milliseconds=statistics.median(seconds["unpacked"]) * 1e3,
        )


if __name__ == "__main__":
    main()
