"""A run's memory is known before it starts, line by line; what does not fit is refused, with what would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import tiny_settings

from chatglm2 import ChatGLMConfig
from chatglm2.checkpoints.loading import read_config
from training.plan import fitting, forecast, step_plan
from training.plan.fitting import TooLittleMemoryError, nearest_that_fits, require_room
from training.plan.forecast import MemoryForecast, forecast_memory, serving_lines
from training.plan.step_plan import Place, place_for
from training.runs.events import FailedEvent
from training.runs.store import RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import carry_out

MIB, GIB = 2**20, 2**30
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
GPU = torch.device("cuda")
ADGEN = TrainingSettings.from_dict({"preset": "adgen", "dtype": "float16"})


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes as on an H100, which need not be there."""
    monkeypatch.setattr(step_plan, "runs_triton", lambda device, dtype: True)
    monkeypatch.setattr(step_plan, "workspace_bytes", lambda device: 32 * MIB)


def foresee(free: float, bits: int = 0, *, has_weights: bool = True) -> Callable[[TrainingSettings], MemoryForecast]:
    def forecast_of(settings: TrainingSettings) -> MemoryForecast:
        place = Place(ChatGLMConfig(), torch.float16, settings.quantization_bit or bits, GPU)
        return forecast_memory(place, settings, int(free), has_weights=has_weights)

    return forecast_of


def recorded(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / file).read_text(encoding="utf-8").splitlines()]


def waste(way: str) -> float:
    """What torch's allocator took above what was allocated, in segments that could not grow, as was measured."""
    run = next(line for line in recorded("h100.jsonl") if line["benchmark"] == "training" and line["way"] == way)
    return (run["gpu_peak_reserved_gib"] - run["gpu_gib"]) / (run["gpu_peak_gib"] - run["gpu_gib"])


@pytest.mark.parametrize(("gib", "bits"), [(24, 0), (16, 0), (12, 4), (10, 4), (8, 4), (6, 4)])
def test_the_whole_job_takes_what_was_measured(gib: int, bits: int) -> None:
    # Of the recorded runs some had segments that could not grow, whose waste was measured apart from them.
    page = serving_lines(ChatGLMConfig(), 2, bits, GPU, columns=2 * 200)
    free = gib * GIB - sum(page.values()) + page["conversations"]
    run = foresee(free, bits)(ADGEN)
    way = "int4, recomputed" if run.plan.recomputes else "int4" if bits else "fp16"
    card = [line for line in recorded("one_card.jsonl") if line["card_gib"] == gib]
    peak = next(line["whole_job_mib"] for line in card if line["event"] == "peak")
    total = sum(page.values()) + run.total
    if not any(line["event"] == "line" for line in card):
        total += (waste(way) - 1) * run.plan.bytes - run.lines["allocator"]
    assert total / MIB == pytest.approx(peak, rel=0.05)
    assert run.fits and sum(run.lines.values()) == run.total


def test_what_fits_is_not_refused_and_says_what_chat_keeps() -> None:
    found = require_room(ADGEN, foresee(3 * GIB, 4))
    assert found.left == 3 * GIB - found.total > 0


def test_what_is_chosen_leaves_something_also_where_little_is_free() -> None:
    for free in range(1100, 9000, 100):
        found = foresee(free * MIB, 4)(ADGEN)
        assert not found.fits or found.total < free * MIB


CHANGES: list[tuple[dict[str, Any], float, dict[str, Any]]] = [
    ({"gradient_checkpointing": "off", "per_device_train_batch_size": 16}, 1.15, {"gradient_checkpointing": "auto"}),
    ({"max_source_length": 4096, "max_target_length": 4096}, 1.7, {"max_source_length": 512}),
    ({"prefix_projection": True}, 1.6, {"prefix_projection": False}),
]


@pytest.mark.parametrize(("asked", "free_gib", "expected"), CHANGES)
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(
    asked: dict[str, Any], free_gib: float, expected: dict[str, Any]
) -> None:
    settings = replace(ADGEN, **asked)
    with pytest.raises(
        TooLittleMemoryError, match=r"This training needs .* GiB on cuda, and .* are free for it\."
    ) as caught:
        require_room(settings, foresee(free_gib * GIB, 4))
    changes = caught.value.changes
    assert expected.items() <= changes.items()
    assert all(
        f"--{name} {value}" in caught.value.en and str(value) in caught.value.zh for name, value in changes.items()
    )
    require_room(replace(settings, **changes), foresee(free_gib * GIB, 4))


def test_weights_of_its_own_are_counted_and_the_pages_are_the_nearest_way_out() -> None:
    own = foresee(6 * GIB, has_weights=False)
    assert own(ADGEN).lines["weights"] > 11 * GIB
    assert nearest_that_fits(ADGEN, own) == {"quantization_bit": 4}
    assert nearest_that_fits(ADGEN, own, [{"dtype": "float16", "quantization_bit": 4}]) == {
        "dtype": "float16",
        "quantization_bit": 4,
    }


def test_where_nothing_fits_that_is_said() -> None:
    with pytest.raises(TooLittleMemoryError, match="Nothing smaller fits") as caught:
        require_room(ADGEN, foresee(0.2 * GIB))
    assert caught.value.changes == {}
    assert forecast.context_bytes(torch.device("cpu")) == 0


def test_a_run_from_the_shell_ends_before_its_first_step_with_the_flags_that_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, max_steps=1, dtype="float32", device="cpu")
    place = place_for(settings, read_config(Path(settings.model_name_or_path)), torch.device("cpu"))

    def needed(asked: TrainingSettings) -> int:
        return forecast_memory(place, asked, 0, has_weights=True).needed

    half = replace(settings, max_source_length=128, max_target_length=128)
    between = (needed(settings) + needed(half)) / 2
    monkeypatch.setattr(fitting, "free_bytes", lambda device: int(between / (1 + fitting.TOLERANCE)))
    run = RunStore(tmp_path / "output").create(settings, "run")
    ended = carry_out(run)
    assert isinstance(ended, FailedEvent)
    assert "This training needs" in ended.en and "这次训练" in ended.zh
    assert "--max_source_length" in ended.en and "--max_target_length" in ended.zh
