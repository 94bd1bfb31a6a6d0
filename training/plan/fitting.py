"""Settings that a device has too little memory for: the sentence with figures, and the nearest that it has enough for.

Knows forecasts and settings; does not know who asked, nor how a form or a shell takes the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatglm2 import ChatGLMForConditionalGeneration
from chatglm2.errors import RunError
from chatglm2.memory.estimate import context_bytes, free_bytes, weight_bytes
from training.plan.forecast import MemoryForecast, forecast_memory
from training.plan.step_plan import Place
from training.settings.train import TrainingSettings, setting_fields

Foresee = Callable[[TrainingSettings], MemoryForecast]
Changes = dict[str, Any]
# What is left of the lengths, from a little less to very little; a prompt of fewer tokens says nothing.
LENGTH_SHARES = (0.75, 0.5, 0.375, 0.25, 0.125, 1 / 16, 1 / 32, 1 / 64)
SHORTEST_LENGTH = 16
GIB, MIB = 2**30, 2**20
# By how much a trainer that has come to its device may miss what was free when somebody clicked.
TOLERANCE = 0.1


class TooLittleMemoryError(RunError):
    """A run that does not fit.

    Attributes:
        changes: the settings, by name, with which it would; empty where none were found.
    """

    def __init__(self, en: str, zh: str, changes: Mapping[str, Any]) -> None:
        super().__init__(en, zh)
        self.changes = dict(changes)


def require_room(settings: TrainingSettings, foresee: Foresee, alternatives: Sequence[Changes] = ()) -> MemoryForecast:
    """What a training of a prefix will take.

    Args:
        settings: of the run.
        foresee: forecasts it, and others that are tried.
        alternatives: changes to try before all others, such as the weights that are there already.

    Raises:
        TooLittleMemoryError: where it does not fit, with the nearest settings that do.
    """
    forecast = foresee(settings)
    if forecast.fits:
        return forecast
    changes = nearest_that_fits(settings, foresee, alternatives)
    needed, free = forecast.needed, max(forecast.free - forecast.kept_for_chat, 0)
    hint_en, hint_zh = _hint(changes, foresee(replace(settings, **changes)).needed if changes else 0)
    raise TooLittleMemoryError(
        f"This training needs {_size(needed)} on {forecast.device}, and {_size(free)} are free for it. {hint_en}",
        f"这次训练在 {forecast.device} 上需要 {_size(needed)}，可用 {_size(free)}。{hint_zh}",
        changes,
    )


def require_room_here(model: ChatGLMForConditionalGeneration, settings: TrainingSettings) -> None:
    """Check in the trainer's process, which has its weights, that the smallest pass will fit.

    Not as strict as before the run: what a click has accepted is not refused for a little that others took since.

    Raises:
        TooLittleMemoryError: where it will not, with the nearest settings that would.
    """
    config, dtype, device = model.config, model.dtype, model.device
    mapped = model.shared_weights is not None and model.shared_weights.mapped
    held = 0 if mapped else weight_bytes(config, dtype.itemsize, config.quantization_bit)
    free = int(free_bytes(device) * (1 + TOLERANCE)) + held + context_bytes(device)

    def foresee(asked: TrainingSettings) -> MemoryForecast:
        bits = asked.quantization_bit or config.quantization_bit
        has_weights = mapped and bits == config.quantization_bit
        forecast = forecast_memory(Place(config, dtype, bits, device), asked, free, has_weights=has_weights)
        return replace(forecast, kept_for_chat=0)

    require_room(settings, foresee)


def nearest_that_fits(settings: TrainingSettings, foresee: Foresee, alternatives: Sequence[Changes] = ()) -> Changes:
    """The fewest and smallest changes after which a run fits; empty where none do."""
    for changes in _tried(settings, alternatives):
        if foresee(replace(settings, **changes)).fits:
            return changes
    return {}


def _tried(settings: TrainingSettings, alternatives: Sequence[Changes]) -> Iterator[Changes]:
    """Each change alone, then several together."""
    cheap = list(alternatives)
    if settings.gradient_checkpointing == "off":
        cheap.append({"gradient_checkpointing": "auto"})
    if settings.prefix_projection and not settings.ptuning_checkpoint:
        cheap.append({"prefix_projection": False})
    yield from cheap
    shorter = list(_shorter(settings))
    yield from shorter
    fewer_bits = [] if settings.quantization_bit == 4 else [{"quantization_bit": 4}]
    yield from fewer_bits
    everything: Changes = {}
    for change in (*cheap, *fewer_bits):
        everything |= change
        yield dict(everything)
        yield from (everything | change for change in shorter)


def _shorter(settings: TrainingSettings) -> Iterator[Changes]:
    for share in LENGTH_SHARES:
        lengths = {
            name: max(int(getattr(settings, name) * share), min(getattr(settings, name), SHORTEST_LENGTH))
            for name in ("max_source_length", "max_target_length")
        }
        yield {name: length for name, length in lengths.items() if length != getattr(settings, name)}


def _hint(changes: Changes, needed: int) -> tuple[str, str]:
    if not changes:
        return (
            "Nothing smaller fits either: close other programs on the device, or use another one (--device).",
            "更小的设置也放不下：请关闭占用该设备的其他程序，或换一个设备（--device）。",
        )
    flags = " ".join(f"--{name} {'none' if value is None else value}" for name, value in changes.items())
    labels = {item.name: item.label for item in setting_fields()}
    named = [(labels[name][0], labels[name][1], "—" if value is None else value) for name, value in changes.items()]
    list_en = ", ".join(f"{en} {value}" for en, _, value in named)
    list_zh = "、".join(f"{zh} {value}" for _, zh, value in named)
    return (
        f"With {list_en} it needs {_size(needed)} and fits ({flags}).",
        f"改为 {list_zh} 后只需 {_size(needed)}，可以放下（{flags}）。",
    )


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
