"""What follows for a training from the model that the page serves: its defaults, its precision, its device.

Knows a form's values and the loaded model. Starts nothing, and does not know where the form is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.training.form import as_on_page
from chatglm2.errors import RunError
from training.settings.presets import PRESETS
from training.settings.samples import DEMO_MODEL
from training.settings.train import RANDOM, TrainingSettings

if TYPE_CHECKING:
    from chatglm2 import ChatGLMForConditionalGeneration, Engine
    from chatglm2.text.tokenizer import ChatGLMTokenizer
    from training.plan.forecast import MemoryForecast

# What learns is a choice of its own on the page: a prefix length that was emptied by mistake must not make it.
LEARNS, PREFIX, ALL_WEIGHTS = "learns", "prefix", "all"
LEFT_TO_PAGE = (None, "", "auto")
ORIGINALS_PRESET = "adgen"


@dataclass(frozen=True)
class TunedModel:
    """The model that runs are tuned on: where it lies, and what is known once it is loaded.

    ``tokenizer``, ``model`` and ``engine`` raise a `ChatGLMError` until then. ``quantization_bit`` is what the page was
    asked for.
    """

    path: str
    hub: str
    tokenizer: Callable[[], ChatGLMTokenizer]
    model: Callable[[], ChatGLMForConditionalGeneration]
    engine: Callable[[], Engine]
    quantization_bit: int | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """What suits this model, where it is not what the settings declare: the original's values, unless it is ours.

        The settings' own defaults suit the demo model. How much a prefix keeps of the rest is ours for both.
        """
        is_demo = Path(self.path).resolve() == DEMO_MODEL.resolve()
        originals = as_on_page(PRESETS[ORIGINALS_PRESET].values)
        return {} if is_demo else {name: value for name, value in originals.items() if name != "keep"}

    def settings(self, form: Mapping[str, object]) -> dict[str, Any]:
        """The settings that a form means on this page: what it leaves open is the preset's, then the model's.

        Raises:
            ChatGLMError: a prefix shall learn, but its length is missing; or the model is not loaded yet.
        """
        given = dict(form)
        defaults = self.defaults
        if given.pop(LEARNS, PREFIX) == ALL_WEIGHTS:
            defaults.pop("learning_rate", None)  # a prefix's
            given |= {"pre_seq_len": None, "keep": 0.0, "prefix_init": RANDOM}
        elif str(given.get("pre_seq_len", "given") or "").strip().lower() in ("", "none", "null"):
            raise _no_length()
        preset = PRESETS.get(str(given.get("preset")))
        values = {**defaults, **(as_on_page(preset.values) if preset else {}), **given}
        for name, value in self._as_served(trains_all=values.get("pre_seq_len", 1) is None).items():
            if values.get(name) in LEFT_TO_PAGE:
                values[name] = value
        return {**values, "model_name_or_path": self.path, "hub": self.hub}

    def evaluated(self) -> dict[str, Any]:
        """The settings that make an evaluation's weights the page's own.

        Raises:
            ChatGLMError: the model is not loaded yet.
        """
        return {"model_name_or_path": self.path, "hub": self.hub, **self._as_served(trains_all=False)}

    def require_memory(self, settings: TrainingSettings) -> None:
        """Check that a training fits beside what the page holds.

        Raises:
            RunError: with what is needed, what is free and what would fit; where a form can take that, it is a
                `TooLittleMemoryError`.
        """
        if settings.trains_all_weights:
            self._require_memory_for_all_weights(settings)
            return
        from training.plan.fitting import require_room

        as_served = {name: value for name, value in self._as_served(trains_all=False).items() if name != "device"}
        differs = any(getattr(settings, name) != value for name, value in as_served.items())
        require_room(settings, self.forecast, [as_served] if differs else [])

    def forecast(self, settings: TrainingSettings) -> MemoryForecast:
        """The memory that training a prefix with ``settings`` will take, beside what the page holds now.

        Raises:
            ChatGLMError: the model is not loaded yet.
        """
        import torch

        from chatglm2.memory.estimate import free_bytes
        from training.plan.forecast import forecast_memory
        from training.plan.step_plan import place_for

        model = self.model()
        here = settings.device in ("auto", model.device.type)
        device = model.device if here else torch.device(settings.device)
        place = place_for(settings, model.config, device)
        free = self.engine().lendable_bytes() if here else free_bytes(device)
        own = (model.dtype, model.config.quantization_bit) != (place.dtype, place.bits)
        shares = here and not own and model.shared_weights is not None
        return forecast_memory(place, settings, free, has_weights=shares)

    def _require_memory_for_all_weights(self, settings: TrainingSettings) -> None:
        import torch

        from training.loop.model_setup import trainable_dtype
        from training.plan.memory import require_memory_for_all_weights

        model = self.model()
        device = torch.device("cpu") if settings.device == "cpu" else model.device
        dtype = getattr(torch, trainable_dtype(settings, device))
        require_memory_for_all_weights(model.config, settings, dtype, device)

    def _as_served(self, *, trains_all: bool) -> dict[str, Any]:
        """What makes the trainer's weights the page's own; weights that learn are others, in a precision of theirs."""
        model = self.model()
        device = {"device": model.device.type}
        if trains_all:
            return device
        dtype = str(model.dtype).removeprefix("torch.")
        return {**device, "dtype": dtype, "quantization_bit": self.quantization_bit}


def trainer_environment(device: str | None) -> dict[str, str]:
    """What a trainer's process needs to find the page's GPU: it is the only one that the trainer sees.

    ``device`` is the page's, such as ``cuda:1``; the trainer calls it ``cuda``.
    """
    kind, _, index = (device or "").partition(":")
    if kind != "cuda" or not index:
        return {}
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}


def _no_length() -> RunError:
    return RunError(
        "Prefix length is empty: a prefix needs one, from 1 to 2048, such as 128. To train all weights instead, choose "
        "that under “What learns”.",
        "前缀长度为空：训练前缀需要填写 1 到 2048 之间的长度，例如 128。若要训练全部权重，请在“训练什么”中选择。",
    )
