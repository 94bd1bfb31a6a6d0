"""Answering at full size: tokens a second, time to the first token, memory, and what a prefix costs to swap.

    python -m benchmarks.generation --model DIR_OR_ID                          # the checkpoint's precision
    python -m benchmarks.generation --model DIR_OR_ID --quantization-bit 4

Prints one JSON line a figure; `benchmarks.make_checkpoint` makes a model of random weights. Replies never end early, so
a stream's tokens a second do not depend on what the model says.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import chatglm2
from benchmarks.common import gpu_memory, release_memory, report, synchronize
from chatglm2 import ChatGLMForConditionalGeneration, Engine, Prefix, Request, SamplingParams
from chatglm2.kernels.quantized.layout import PackedWeight, dequantize
from chatglm2.model.quantization import QuantizedLinear
from chatglm2.serving.cache import SlotCache
from chatglm2.serving.runners.base import DecodeBatch
from chatglm2.serving.runners.choice import build_runner

PREFIX_TOKENS = 128
PROMPT_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--quantization-bit", type=int, choices=(4, 8))
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each reply")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    start = time.perf_counter()
    model = chatglm2.load_model(arguments.model, dtype=arguments.dtype, quantization_bit=arguments.quantization_bit)
    synchronize()
    figures = {"dtype": str(model.dtype), "quantization_bit": arguments.quantization_bit or 0}
    peak_host_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report("load", seconds=time.perf_counter() - start, peak_host_gib=peak_host_gib, **figures, **gpu_memory())
    model.config.eos_token_id = None
    measure_copy_bandwidth()
    measure_decoding(model, arguments.tokens, arguments.rounds, figures)
    measure_first_token(model, arguments.rounds, figures)
    measure_prefix_swap(model, figures)
    measure_context_memory(model, figures)
    measure_output_errors(model, figures)
    profile_step(model, figures)


def random_prefix(model: ChatGLMForConditionalGeneration, seed: int = 0) -> Prefix:
    config = model.config
    shape = (config.num_layers, 2, PREFIX_TOKENS, config.multi_query_group_num, config.kv_channels)
    return Prefix(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def prompt_of(tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(100, 30000, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def measure_copy_bandwidth() -> None:
    """What the card's memory gives at most: bytes read and written by a large copy."""
    if not torch.cuda.is_available():
        return
    source = torch.empty(2**30, dtype=torch.float16, device="cuda").normal_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(8):
        synchronize()
        start = time.perf_counter()
        target.copy_(source)
        synchronize()
        seconds.append(time.perf_counter() - start)
    report("copy", gigabytes_per_second=2 * source.nbytes / statistics.median(seconds) / 1e9)


def answer(engine: Engine, requests: Sequence[Request]) -> float:
    """Seconds from the first token of the last request to start, to the end of all."""
    streams = [iter(engine.submit(request)) for request in requests]
    for stream in streams:
        next(stream)
    start = time.perf_counter()
    for stream in streams:
        for _ in stream:
            pass
    return time.perf_counter() - start


def measure_decoding(
    model: ChatGLMForConditionalGeneration, tokens: int, rounds: int, figures: dict[str, object]
) -> None:
    """One stream, base and tuned together, and 2, 4, 8 streams; tokens a second of one and of all."""
    start = time.perf_counter()
    engine = Engine(model, slots=8, max_length=2048)
    report("engine", start_seconds=time.perf_counter() - start, **figures)
    prefix = random_prefix(model)
    sampling = SamplingParams(max_new_tokens=tokens)
    cases: dict[str, list[Prefix | None]] = {"one": [None], "pair": [None, prefix]}
    cases |= {"four": [None, prefix] * 2, "eight": [None, prefix] * 4}
    for name, prefixes in cases.items():
        seconds = []
        for turn in range(rounds + 1):
            requests = [
                Request(prompt_of(PROMPT_TOKENS, seed=100 * turn + index), row, sampling, seed=index)
                for index, row in enumerate(prefixes)
            ]
            seconds.append(answer(engine, requests))
        each = (tokens - 1) / statistics.median(seconds[1:])
        report("decode", streams=name, tokens_per_second_each=each, total=each * len(prefixes), **figures)
    engine.close()


def measure_first_token(model: ChatGLMForConditionalGeneration, rounds: int, figures: dict[str, object]) -> None:
    """Milliseconds from a 2,048-token prompt to its first token."""
    engine = Engine(model, slots=1, max_length=4096)
    milliseconds = []
    for turn in range(rounds + 2):
        request = Request(prompt_of(2048, seed=turn), None, SamplingParams(max_new_tokens=1))
        start = time.perf_counter()
        list(engine.submit(request))
        milliseconds.append(1000 * (time.perf_counter() - start))
    report("first token", prompt_tokens=2048, milliseconds=statistics.median(milliseconds[2:]), **figures)
    engine.close()


def measure_prefix_swap(model: ChatGLMForConditionalGeneration, figures: dict[str, object]) -> None:
    """Milliseconds to put a ready prefix in front of a slot."""
    cache = SlotCache(model.config, model.dtype, model.device, slots=2, capacity=512)
    prefixes = [random_prefix(model, seed) for seed in range(2)]
    milliseconds = []
    for turn in range(12):
        synchronize()
        start = time.perf_counter()
        cache.write_prefix(turn % 2, prefixes[turn % 2])
        synchronize()
        milliseconds.append(1000 * (time.perf_counter() - start))
    report("swap a prefix", milliseconds=statistics.median(milliseconds), **figures)


def measure_context_memory(model: ChatGLMForConditionalGeneration, figures: dict[str, object]) -> None:
    """Peak GPU memory of one conversation that fills its context, after its prompt was computed in chunks."""
    if not torch.cuda.is_available():
        return
    for context in (8192, 32768):
        release_memory()
        engine = Engine(model, slots=1, max_length=context)
        prompt = prompt_of(context - 64)
        start = time.perf_counter()
        list(engine.submit(Request(prompt, random_prefix(model), SamplingParams(max_new_tokens=63))))
        report("context", tokens=context, seconds=time.perf_counter() - start, **figures, **gpu_memory())
        engine.close()
        del engine


@torch.inference_mode()
def measure_output_errors(model: ChatGLMForConditionalGeneration, figures: dict[str, object]) -> None:
    """How far each quantized product is from that with the dequantized weights in fp32, for one row and for many."""
    worst: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            dense = dequantize(PackedWeight(module.weight, module.weight_scale.float(), module.bits))
            for rows in (1, 2, 8, 128):
                x = torch.randn(rows, module.in_features, generator=generator).to(model.device, model.dtype)
                bias = None if module.bias is None else module.bias.float()
                expected = F.linear(x.float(), dense, bias)
                error = float((module(x).float() - expected).norm() / expected.norm())
                kind = name.rpartition(".")[2]
                worst[kind] = max(worst.get(kind, 0.0), error)
    if worst:
        rounded = {kind: f"{error:.1e}" for kind, error in worst.items()}
        report("output error", worst_layer=rounded, **figures)


@torch.inference_mode()
def profile_step(model: ChatGLMForConditionalGeneration, figures: dict[str, object]) -> None:
    """Where the time of a decode step goes: microseconds of each kernel, and of the step as a whole, one row."""
    if not torch.cuda.is_available():
        return
    runner = build_runner(model, SlotCache(model.config, model.dtype, model.device, slots=1, capacity=1024), 1024)
    batch = DecodeBatch(torch.tensor([5], device=model.device), [0], [200], [200])
    steps = 20
    runner.decode(batch)
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        runner.decode(batch)
    synchronize()
    step_microseconds = 1e6 * (time.perf_counter() - start) / steps
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            runner.decode(batch)
        synchronize()
    kernels = [event for event in profile.key_averages() if event.self_device_time_total > steps]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    times = {event.key[:60]: round(event.self_device_time_total / steps, 1) for event in kernels}
    report("step profile", step_microseconds=step_microseconds, kernel_microseconds=times, **figures)


if __name__ == "__main__":
    main()
