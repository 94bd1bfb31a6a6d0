"""How long a step will take: by what an earlier run on this machine measured, else roughly, by the arithmetic in it.

Knows tokens, layers and a device's speed at products. Takes no step.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from chatglm2 import ChatGLMConfig
from training.plan.step_plan import StepPlan
from training.runs.events import StepEvent, step_history
from training.runs.store import Run
from training.settings.keep_recipe import USUAL_ROW_TOKENS, recipe_for
from training.settings.train import TrainingSettings

# What of the speed of plain products a training reaches (an H100: 0.11 s for a step of 2,048 tokens in FP16).
REACHED_SHARE = 0.6
# How those are timed; the fastest counts, as others compute meanwhile.
TRIED_ROWS = 1024
TRIED_SECONDS = 0.1
PRODUCTS_AT_ONCE = 4
# Of a GPU's multiprocessor in half precision with sums in fp32, dense, by compute capability (NVIDIA's data sheets of
# V100, T4, A100, RTX 30, RTX 40, H100, B200 and RTX 50); in fp32; and what of it large products reach.
OPERATIONS_A_CYCLE = {
    **{(7, 0): 1024, (7, 5): 512, (8, 0): 2048, (8, 6): 512},
    **{(8, 9): 512, (9, 0): 4096, (10, 0): 8192, (12, 0): 512},
}
PLAIN_OPERATIONS_A_CYCLE = 256
USUAL_KILOHERTZ = 1_600_000
REACHED_BY_PRODUCTS = 0.75
# Rows of like length are padded to the longest of them.
PADDING = 1.08
# Points of a curve that are the machine's: the first ones hold what is compiled and taken once.
FIRST_POINTS, LAST_POINTS = 1, 8
RUNS_LOOKED_AT = 12
# Settings on which the speed depends, beside the number of tokens.
ALIKE = ("model_name_or_path", "dtype", "quantization_bit", "device", "pre_seq_len", "gradient_checkpointing", "keep")


@dataclass(frozen=True)
class RowLengths:
    """A data file's rows, as many tokens as they have after shortening, on average."""

    rows: int
    source_tokens: float
    target_tokens: float

    @property
    def tokens(self) -> float:
        return self.source_tokens + self.target_tokens + 1


@dataclass(frozen=True)
class Pace:
    """How long a run takes: seconds a step, and in all, without what chat pauses it.

    ``measured``: by a run on this machine, which may be the one that trains.
    """

    seconds_per_step: float
    steps: int
    measured: bool

    @property
    def seconds(self) -> float:
        return self.seconds_per_step * self.steps


def steps_of(settings: TrainingSettings, rows: int) -> int:
    """Steps of a run on a file of so many rows."""
    if settings.max_steps > 0:
        return settings.max_steps
    used = min(rows, settings.max_train_samples or rows)
    if settings.mix_file:
        used = round(used / (1 - settings.mix_ratio))
    return math.ceil(max(used, 1) / rows_per_step(settings) * settings.num_train_epochs)


def rows_per_step(settings: TrainingSettings) -> int:
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps


def measured_rate(runs: Iterable[Run], settings: TrainingSettings) -> float | None:
    """Tokens a second of the newest run that was like ``settings``; None where there was none."""
    wanted = settings.to_dict()
    for run, _ in zip(runs, range(RUNS_LOOKED_AT), strict=False):
        found = run.settings().to_dict()
        if all(found[name] == wanted[name] for name in ALIKE):
            rate = _rate(step_history(run.events()[0]))
            if rate:
                return rate
    return None


def _rate(points: list[StepEvent]) -> float | None:
    rates = [point.tokens_per_second for point in points[FIRST_POINTS:][-LAST_POINTS:] if point.tokens_per_second > 0]
    return statistics.median(rates) if rates else None


def estimate_pace(
    config: ChatGLMConfig,
    settings: TrainingSettings,
    lengths: RowLengths,
    plan: StepPlan,
    tokens_per_second: float | None,
    products_per_second: float,
) -> Pace:
    """How long a run takes.

    Args:
        config: of the model.
        settings: of the run.
        lengths: of its data.
        plan: how its steps are computed.
        tokens_per_second: as `measured_rate` found; None: it is estimated.
        products_per_second: as `products_per_second` found.
    """
    rows, steps = rows_per_step(settings), steps_of(settings, lengths.rows)
    if tokens_per_second is not None:
        return Pace(rows * lengths.tokens / tokens_per_second, steps, measured=True)
    recipe = recipe_for(settings.keep)
    general = recipe.rows * USUAL_ROW_TOKENS / lengths.tokens if recipe is not None else 0.0  # in rows of the task
    operations = (rows + general) * PADDING * _operations_per_row(config, settings, lengths, plan)
    return Pace(operations / (REACHED_SHARE * products_per_second), steps, measured=False)


def _operations_per_row(
    config: ChatGLMConfig, settings: TrainingSettings, lengths: RowLengths, plan: StepPlan
) -> float:
    """Multiplications and additions of a row, forward and backward.

    The frozen layers take no gradients for their weights. Computing a layer again costs all but its last projection.
    """
    heads_width = config.num_attention_heads * config.kv_channels
    mixed = heads_width + 2 * config.multi_query_group_num * config.kv_channels
    again = config.hidden_size * (mixed + heads_width + 2 * config.ffn_hidden_size)
    layer = again + config.hidden_size * config.ffn_hidden_size
    passes = 3 if settings.trains_all_weights else 2
    seen = lengths.tokens * (lengths.tokens / 2 + (settings.pre_seq_len or 0))
    attention = 2 * seen * heads_width * (passes + 1)
    layers = lengths.tokens * (passes * layer + (again if plan.recomputes else 0)) + attention
    head = passes * lengths.target_tokens * config.hidden_size * config.padded_vocab_size
    return 2 * (config.num_layers * layers + head)


def products_per_second(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Multiplications and additions a second of products of the model's width.

    A CPU is timed for a moment, once. A GPU is not, as that would take memory and time from whoever chats: it is known
    by its kind.
    """
    if device.type != "cuda":
        return _timed_speed(device, dtype, width)
    properties = torch.cuda.get_device_properties(device)
    nearest = max((kind for kind in OPERATIONS_A_CYCLE if kind <= (properties.major, properties.minor)), default=(7, 0))
    each = OPERATIONS_A_CYCLE[nearest] if dtype.itemsize == 2 else PLAIN_OPERATIONS_A_CYCLE
    hertz = 1000.0 * getattr(properties, "clock_rate", USUAL_KILOHERTZ)
    return REACHED_BY_PRODUCTS * properties.multi_processor_count * each * hertz


@lru_cache(maxsize=8)
def _timed_speed(device: torch.device, dtype: torch.dtype, width: int) -> float:
    left, right = (torch.randn(rows, width, device=device, dtype=dtype) for rows in (TRIED_ROWS, width))
    product = left @ right.T  # the first one finds its kernel
    fastest, began = math.inf, time.perf_counter()
    while (started := time.perf_counter()) - began < TRIED_SECONDS or fastest == math.inf:
        for _ in range(PRODUCTS_AT_ONCE):
            torch.mm(left, right.T, out=product)
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * TRIED_ROWS * width * width * PRODUCTS_AT_ONCE / fastest
