"""How strongly a pane's prefix acts, and the second one that may stand beside it.

Knows the sources and what a blend is. Knows no Gradio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.chat.sources import BASE, LoadedSource, SourceLibrary, who_answers
from app.text.languages import Speech

if TYPE_CHECKING:
    from chatglm2.model.prefix import Prefix


@dataclass(frozen=True)
class Mix:
    """What a pane adds to the checkpoint that it has chosen.

    Attributes:
        strength: of that checkpoint's prefix; 0 is the base model, 1 as it was trained.
        second: key of the checkpoint whose prefix stands beside it; empty for none.
        second_strength: of the second one.
    """

    strength: float = 1.0
    second: str = ""
    second_strength: float = 1.0


AS_TRAINED = Mix()


@dataclass(frozen=True)
class MixedPrefix:
    """What a pane answers with: its name, also in no language, its prefix, and the strengths of what it is made of."""

    chip: str
    who: str
    prefix: Prefix | None
    strengths: list[float]


def mix_prefixes(sources: SourceLibrary, key: str, mix: Mix, model_name: str, speech: Speech) -> MixedPrefix:
    """The source with ``key``, mixed; the base model has nothing to mix.

    Raises:
        ChatGLMError: a checkpoint is gone, broken or does not fit the model, or a strength is none.
    """
    first = sources.load(key)
    if first.prefix is None:
        return MixedPrefix(who_answers(first, model_name, speech), BASE, None, [])
    from chatglm2.model.blending import blend_prefixes  # here, since the page starts before torch is loaded

    parts = [(first, mix.strength)]
    if mix.second:
        parts.append((sources.load(mix.second), mix.second_strength))
    blend = blend_prefixes([(part.prefix, strength) for part, strength in parts if part.prefix is not None])
    chip = " + ".join(_named(who_answers(part, model_name, speech), strength, speech) for part, strength in parts)
    who = " + ".join(_identity(part, strength) for part, strength in parts)
    return MixedPrefix(chip, who, blend, [strength for _, strength in parts])


def strengths_text(strengths: list[float], speech: Speech) -> str:
    """The strengths behind an answer; empty where its prefix acted as it was trained."""
    if strengths in ([], [1.0]):
        return ""
    return speech("strength_was", strength=" + ".join(f"{strength:g}" for strength in strengths))


def _identity(part: LoadedSource, strength: float) -> str:
    hashed = part.prefix.short_hash if part.prefix is not None else ""
    return f"{part.source.name} · {hashed}" + (f" × {strength:g}" if strength != 1 else "")


def _named(chip: str, strength: float, speech: Speech) -> str:
    return chip if strength == 1 else f"{chip} · {speech('strength_was', strength=f'{strength:g}')}"
