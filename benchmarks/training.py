"""Training: seconds a step and memory of each way to hold the model, and against a plain loop over padded rows.

    python -m benchmarks.training                                         # the demo model, against the plain loop
    python -m benchmarks.training --model DIR_OR_ID --train-file ROWS     # full size: a line a way

The setting is the original's ``train.sh``: prefix 128, source 64, target 128, 16 examples a step. Steps are those of a
real run, taken from its events; nothing is left out but the first ones. `benchmarks.make_checkpoint` makes a full-size
model of random weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.utils.checkpoint import checkpoint

import chatglm2
from benchmarks.common import gpu_memory, median_ratio, release_memory, report, synchronize
from training.data.batching import PaddingCollator
from training.data.columns import find_columns
from training.data.encoding import ExampleEncoder, read_examples
from training.data.files import read_table
from training.runs.events import StepEvent
from training.runs.store import RunStore
from training.settings.train import DEMO_MODEL, SAMPLE_TRAIN_FILE, TrainingSettings
from training.worker.alone import train

EXAMPLES = 16
# As in the original's script; reading the loss waits for the GPU.
LOGGING_STEPS = 10
# Points of the curve left out at the start of a run: kernels are compiled and memory is taken there.
WARM_UP_POINTS = 2
SETTING = {"pre_seq_len": 128, "max_source_length": 64, "max_target_length": 128, "learning_rate": 2e-2}
ROW_TOKENS = 64 + 128 + 1
WAYS: dict[str, dict[str, Any]] = {
    "fp16": {"dtype": "float16", "gradient_checkpointing": "off"},
    "fp16, recomputed": {"dtype": "float16", "gradient_checkpointing": "on"},
    "int4": {"dtype": "float16", "quantization_bit": 4, "gradient_checkpointing": "off"},
    "int4, recomputed": {"dtype": "float16", "quantization_bit": 4, "gradient_checkpointing": "on"},
    "int4, one by one": {
        "dtype": "float16",
        "quantization_bit": 4,
        "gradient_checkpointing": "on",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": EXAMPLES,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--train-file", default=str(SAMPLE_TRAIN_FILE))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison with the plain loop")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    common = {"model_name_or_path": arguments.model, "train_file": arguments.train_file, **SETTING}
    if arguments.model == str(DEMO_MODEL):
        compare_with_plain_loop(common, arguments.steps, arguments.rounds)
        return
    for way in arguments.ways:
        measure_way(way, {**common, "max_steps": arguments.steps})


def measure_way(way: str, settings: dict[str, Any]) -> None:
    """Steps of one real run, and the most memory that it took."""
    release_memory()
    steps = run_training({**settings, **WAYS[way]})
    seconds = [step.seconds_per_step for step in steps]
    tokens = [step.tokens_per_second * step.seconds_per_step for step in steps]
    report(
        "training",
        way=way,
        seconds_per_step=statistics.median(seconds),
        slowest_step=max(seconds),
        tokens_per_step=statistics.mean(tokens),
        first_loss=steps[0].loss,
        last_loss=steps[-1].loss,
        **gpu_memory(),
    )


def run_training(settings: dict[str, Any]) -> list[StepEvent]:
    """The steps of a run from its start to its end, without the first ones."""
    batch = {"per_device_train_batch_size": EXAMPLES, "save_steps": 1_000_000, "logging_steps": LOGGING_STEPS}
    with tempfile.TemporaryDirectory() as directory:
        run = RunStore(directory).create(TrainingSettings.from_dict({**batch, **settings}))
        train(run)
        return [event for event in run.events()[0] if isinstance(event, StepEvent)][WARM_UP_POINTS:]


def compare_with_plain_loop(common: dict[str, Any], steps: int, rounds: int) -> None:
    """Examples a second, ours over the plain loop's, one after the other in each round."""
    rates: dict[str, list[float]] = {"fp32": [], "bf16": [], "plain": [], "plain_recomputing": []}
    for _ in range(rounds):
        for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
            taken = run_training({**common, "dtype": dtype, "max_steps": steps})
            rates[name].append(EXAMPLES / statistics.median(step.seconds_per_step for step in taken))
        for name, recompute in (("plain", False), ("plain_recomputing", True)):
            rates[name].append(EXAMPLES / statistics.median(plain_steps(common, steps // 3, recompute)))
    report(
        "training.ratio",
        examples_per_second={name: round(statistics.median(values), 2) for name, values in rates.items()},
        fp32_over_plain=median_ratio(rates["fp32"], rates["plain"]),
        bf16_over_plain=median_ratio(rates["bf16"], rates["plain"]),
        fp32_over_plain_recomputing=median_ratio(rates["fp32"], rates["plain_recomputing"]),
        bf16_over_plain_recomputing=median_ratio(rates["bf16"], rates["plain_recomputing"]),
    )


def plain_steps(common: dict[str, Any], steps: int, recompute: bool) -> list[float]:
    """Seconds of each step of a loop as one would write it: rows padded to 193 tokens, fp32, logits of every position.

    Args:
        common: model and data.
        steps: how many.
        recompute: whether layers are computed again in the backward pass, as the original's script does.
    """
    model = chatglm2.load_model(common["model_name_or_path"], dtype="float32")
    encoder = model.prepare_prefix_tuning(int(common["pre_seq_len"]))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=common["learning_rate"])
    model.train()
    if recompute:
        for layer in model.transformer.encoder.blocks():
            layer.forward = _recomputing(layer.forward)
    seconds = []
    for batch, _ in zip(padded_batches(common), range(steps), strict=False):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        synchronize()
        start = time.perf_counter()
        logits = model(batch["input_ids"]).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def padded_batches(common: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in the file's order, every row padded to 193 tokens."""
    settings = TrainingSettings.from_dict(common)
    table = read_table(settings.train_file)
    examples, _ = read_examples(table, find_columns(table, settings))
    encoder = ExampleEncoder(chatglm2.load_tokenizer(settings.model_name_or_path), settings)
    collate = PaddingCollator(encoder.pad_id, encoder.masked_label, pad_to_length=ROW_TOKENS)
    for start in range(0, len(examples) - EXAMPLES, EXAMPLES):
        batch = collate([encoder.encode(example) for example in examples[start : start + EXAMPLES]])
        yield {"input_ids": batch["input_ids"], "labels": batch["labels"]}


def _recomputing(forward: Any) -> Any:
    return lambda *arguments: checkpoint(forward, *arguments, use_reentrant=False)


if __name__ == "__main__":
    main()
