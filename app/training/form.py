"""What a form needs of each setting: which control, which choices, which range; and what a preset puts into it.

Knows the settings' declarations, not any particular setting beyond those that the page decides itself. Knows no Gradio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app.text.languages import Speech
from chatglm2.errors import ChatGLMError
from training.settings.field import SettingField
from training.settings.keep_recipe import steps_for
from training.settings.presets import PRESETS
from training.settings.samples import SAMPLE_DEV_FILE, SAMPLE_TRAIN_FILE
from training.settings.train import setting_fields

Choices = tuple[tuple[str, str | int], ...]  # what is shown, what it stands for
NOTHING = ("—", "")

# Steps between two checkpoints that the page offers at most, where a preset says.
MOST_SAVE_STEPS = 100
LARGEST_SHOWN = 100_000  # a limit that nobody comes near says nothing

# Chosen elsewhere on the page, or without meaning in it.
DECIDED_BY_PAGE = frozenset(
    (
        *("model_name_or_path", "hub", "train_file", "prompt_column", "response_column", "history_column"),
        "preprocessing_num_workers",
    )
)

# Offered by components of their own: a sentence with what it does, and three answers for a number.
BUILT_APART = frozenset(("prefix_text", "keep"))

# The many settings that seldom matter, by what they are about; whatever is in none comes with the last.
TOPICS: dict[str, tuple[str, ...]] = {
    "data": (
        *("skip_bad_rows", "source_prefix", "max_train_samples", "truncation"),
        *("group_by_length", "ignore_pad_token_for_loss"),
    ),
    "learning": (
        *("prefix_init", "ptuning_checkpoint", "prefix_projection", "num_train_epochs", "gradient_accumulation_steps"),
        *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "seed"),
    ),
    "forgetting": ("keep_file", "keep_own", "mix_file", "mix_ratio", "retention_check", "retention_file"),
    "memory": ("quantization_bit", "dtype", "device", "gradient_checkpointing", "share"),
    "saving": ("logging_steps", "save_steps", "save_total_limit"),
    "validation": (
        *("validation_file", "validation_split", "max_eval_samples", "eval_steps", "eval_generate_samples"),
        *("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
    ),
    "compat": ("compat", "rope_precision"),
}

# The page validates unless somebody says 0; see `app.training.service`.
DEFAULTS_ON_PAGE: dict[str, Any] = {"validation_split": 0.1, "max_eval_samples": 50}

# What means something else on the page than on the command line.
HELP_ON_PAGE = {
    "pre_seq_len": ("Learnt tokens in every layer; needed.", "每层可学习的 token 数，必填。"),
    "learning_rate": ("How far a step goes.", "每步的幅度。"),
    "validation_file": (
        "Same format. —: rows of your own are held back; the sample has its own.",
        "格式相同。—：从您的数据中留出；示例数据自带验证数据。",
    ),
    "validation_split": (
        "Part of your rows that is not trained on; 0 without validation data: nothing is validated.",
        "不参与训练、用于验证的比例；为 0 且未指定验证数据时不验证。",
    ),
    "eval_steps": ("Steps; empty: with every checkpoint.", "步数；留空则在每个检查点验证。"),
    "device": ("auto: where the page's model is.", "auto：与页面的模型相同。"),
    "dtype": ("auto: as the page's model.", "auto：与页面的模型相同。"),
    "quantization_bit": ("—: as the page's model.", "—：与页面的模型相同。"),
}


@dataclass(frozen=True)
class Control:
    """One setting as a form offers it. ``choices`` are a menu's; ``step`` is a number's."""

    name: str
    kind: Literal["menu", "open menu", "tick", "text", "number"]  # an open menu takes other values, too
    value: Any
    choices: Choices = ()
    whole: bool = False
    step: float = 1.0


def form_fields(group: str, defaults: Mapping[str, Any] | None = None) -> list[SettingField]:
    """The settings of a group that a form offers, in their order; ``defaults`` are those that are not as declared."""
    own = {**DEFAULTS_ON_PAGE, **(defaults or {})}
    elsewhere = DECIDED_BY_PAGE | BUILT_APART
    fields = [item for item in setting_fields() if item.group == group and item.name not in elsewhere]
    return [replace(item, default=own[item.name]) if item.name in own else item for item in fields]


def by_topic(fields: Sequence[SettingField]) -> dict[str, list[SettingField]]:
    """The settings in their topics, in the topics' order."""
    of = {name: topic for topic, names in TOPICS.items() for name in names}
    last = next(reversed(TOPICS))
    return {topic: [item for item in fields if of.get(item.name, last) == topic] for topic in TOPICS}


def control_for(item: SettingField) -> Control:
    """How a form asks for a setting."""
    if item.choices:
        offered: Choices = tuple((str(choice), choice) for choice in item.choices)
        value = "" if item.default is None else item.default
        return Control(item.name, "menu", value, (NOTHING, *offered) if item.optional else offered)
    if item.examples:
        named: Choices = tuple((Path(example).name, example) for example in item.examples)
        return Control(item.name, "open menu", item.default or "", (NOTHING, *named) if item.optional else named)
    if item.type == "bool":
        return Control(item.name, "tick", bool(item.default))
    if item.type == "str" or (item.optional and item.default is None):
        # A number field shows 0 where nothing is set; text stays empty, and the settings read it either way.
        return Control(item.name, "text", "" if item.default is None else str(item.default))
    return _number(item)


def _number(item: SettingField) -> Control:
    whole, value = item.type == "int", float(item.default or 0)
    # The arrows change a fraction by a tenth of what it is.
    step = 1.0 if whole else max((value or 0.01) / 10, 1e-6)
    return Control(item.name, "number", value, whole=whole, step=step)


def with_validation(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that validate with every checkpoint where nothing else was asked: the sample on its own dev file."""
    if not float(asked.get("validation_split") or 0) and not asked.get("validation_file"):
        return dict(asked)
    is_sample = str(asked.get("train_file")) == str(SAMPLE_TRAIN_FILE)
    dev = str(SAMPLE_DEV_FILE) if is_sample else None
    return {
        **asked,
        "validation_file": asked.get("validation_file") or dev,
        "eval_steps": asked.get("eval_steps") or asked.get("save_steps") or _declared("save_steps"),
    }


def refill(values: Mapping[str, Any], filled: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """What of a preset's ``values`` goes into a form that holds ``current``: what a person typed stays.

    ``filled`` is what the page put there before, the defaults or the last preset's; what still is that, nobody typed.
    """
    return {name: value for name, value in values.items() if _same(current[name], filled[name])}


def _declared(name: str) -> Any:
    return next(item.default for item in setting_fields() if item.name == name)


def form_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What each setting's control holds at first; a preset is no setting, but fills several."""
    fields = [*form_fields("basic", defaults), *form_fields("advanced", defaults)]
    return {item.name: control_for(item).value for item in fields if item.name != "preset"}


def changed_settings(current: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The settings that are not as they were offered, in the form's order."""
    return [name for name, default in defaults.items() if name in current and not _same(current[name], default)]


def _same(shown: Any, filled: Any) -> bool:
    """A form gives numbers back as text or as fractions, and nothing as an empty text."""
    return shown == filled or str(shown if shown is not None else "") == str(filled if filled is not None else "")


def preset_values(name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset puts into the form: every setting that some preset sets, at its default where this one does not.

    ``defaults`` are those of the model that is tuned, where it has any.
    """
    touched = {setting for preset in PRESETS.values() for setting in preset.values}
    declared = {item.name: item.default for item in setting_fields() if item.name in touched}
    return {**declared, **defaults, **(as_on_page(PRESETS[name].values) if name in PRESETS else {})}


def steps_beside(keep: float, preset: str, defaults: Mapping[str, Any]) -> dict[str, int]:
    """The steps that follow from how much is kept; nothing where the preset or the tuned model's defaults name some."""
    named = PRESETS[preset].values if preset in PRESETS else defaults
    return {} if "max_steps" in named else {"max_steps": steps_for(keep)}


def as_on_page(values: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's values, with a first checkpoint soon enough to try while the rest is trained.

    The original saves every 1,000 steps, as its scripts do here; a prefix and its moments are 22 MB.
    """
    often = {"save_steps": min(values["save_steps"], MOST_SAVE_STEPS)} if "save_steps" in values else {}
    return {**values, **often}


def preset_reason(name: str) -> tuple[str, str]:
    """Why one would choose a preset, in English and Chinese."""
    return PRESETS[name].reason if name in PRESETS else ("", "")


def _reach(item: SettingField) -> str:
    """From where to where a number goes, where that helps to choose one."""
    if item.minimum is None or item.choices:
        return ""
    if item.maximum is None or item.maximum > LARGEST_SHOWN:
        return f" ≥ {item.minimum:g}"
    return f" {item.minimum:g}–{item.maximum:g}"


def problem_text(error: ChatGLMError, speech: Speech) -> str:
    """An error's sentence where settings have labels: it names those in the place of a command line's flags."""
    labels = {item.name: speech.pick(*item.label) for item in setting_fields()}

    def named(flag: re.Match[str]) -> str:
        return f"“{labels[flag[1]]}”" if flag[1] in labels else flag[0]

    return re.sub(r"--([a-z]\w*)", named, error.localized(speech.language), flags=re.ASCII)


def setting_words() -> dict[str, tuple[str, str]]:
    """Labels and one-line explanations of all settings, for the page's translations."""
    words: dict[str, tuple[str, str]] = {}
    for item in setting_fields():
        words[f"setting_{item.name}"] = item.label
        help_en, help_zh = HELP_ON_PAGE.get(item.name, item.help)
        words[f"setting_{item.name}_help"] = (help_en + _reach(item), help_zh + _reach(item))
    return words
