"""What a setting is: how it is declared, how values are read as people write them, what a form needs to offer it.

pydantic checks the values. Knows no particular setting; `train.py`, `evaluate.py` and `distributed.py` declare them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic import dataclasses as checked
from pydantic.fields import FieldInfo

Words = tuple[str, str]  # English, Chinese
SettingValue = int | float | bool | str | None
# The few settings that matter, the rest, what only an evaluation reads, and what several processes do.
Group = Literal["basic", "advanced", "evaluation", "distributed"]
# What a setting's text names on this machine, for whoever must not let it name anything.
Reads = Literal["data", "checkpoint"]
# For every class of settings: a name that is none is refused, and so is a number that is none.
CHECKS = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
NOTHING = ("", "none", "null")  # what a form, a flag or a file may say for no value
YES = ("true", "1", "yes")  # and for a switch that is on


@dataclass(frozen=True)
class SettingField:
    """One setting, with all that a form or a parser needs to offer it."""

    name: str
    type: str  # "int" | "float" | "bool" | "str"
    default: SettingValue
    optional: bool
    label: Words
    help: Words
    group: Group
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str | int, ...] = ()
    examples: tuple[str, ...] = ()  # values that a form may offer; others are as good
    reads: Reads | None = None

    @property
    def flag(self) -> str:
        """The command-line flag, which error messages name too."""
        return f"--{self.name}"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.type in ("int", "float")


def setting(
    default: SettingValue,
    label: Words,
    words: Words,
    *,
    depending: Callable[[dict[str, Any]], SettingValue] | None = None,
    group: Group = "advanced",
    minimum: float | None = None,
    maximum: float | None = None,
    examples: tuple[str, ...] = (),
    reads: Reads | None = None,
) -> Any:
    """A setting that carries its words and its range; ``Any`` as `dataclasses.field` itself is typed.

    Args:
        default: what holds where nothing is given; with ``depending``, what usually holds.
        label: its name on a form.
        words: what it does, in a sentence.
        depending: the default, given the settings that are declared before this one.
        group: where it is offered.
        minimum: the least value.
        maximum: the largest value.
        examples: values that a form may offer.
        reads: what its value names the file or folder of, if it does.
    """
    shown: dict[str, Any] = {"default": default, "label": label, "help": words, "group": group, "examples": examples}
    shown |= {"minimum": minimum, "maximum": maximum, "reads": reads}
    otherwise: dict[str, Any] = {"default": default} if depending is None else {"default_factory": depending}
    return Field(**otherwise, ge=minimum, le=maximum, json_schema_extra=shown)


def is_true(value: object) -> bool:
    """Whether a switch is on, as people and files write it."""
    return str(value).lower() in YES


def describe_fields(settings: type[Settings]) -> Mapping[str, SettingField]:
    """What a class of settings declares, by name."""
    return {name: _describe(name, field) for name, field in _declared(settings).items()}


def _declared(settings: type[Settings]) -> Mapping[str, FieldInfo]:
    fields: Mapping[str, FieldInfo] = settings.__pydantic_fields__  # type: ignore[attr-defined] # pydantic adds it
    return fields


def _describe(name: str, field: FieldInfo) -> SettingField:
    parts = typing.get_args(field.annotation) or (field.annotation,)
    choices: tuple[Any, ...] = ()
    if typing.get_origin(field.annotation) is Literal:
        choices = parts
    kinds = [part for part in parts if part is not type(None)]
    if typing.get_origin(kinds[0]) is Literal:
        choices = typing.get_args(kinds[0])
    kind = type(choices[0]) if choices else kinds[0]
    words: Any = field.json_schema_extra
    return SettingField(name, kind.__name__, optional=type(None) in parts, choices=choices, **words)


@checked.dataclass(frozen=True, config=CHECKS)
class Settings:
    """What all settings have in common."""

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        """A value as people and forms write it: empty for none, a number as text or with a point."""
        name = str(info.field_name)
        item = _describe(name, _declared(cls)[name])
        if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
            if item.optional:
                return None
            return "" if value is None and item.type == "str" else value
        if isinstance(value, bool) and item.is_number:
            raise ValueError("true and false are no numbers")
        if isinstance(value, str | float) and item.is_number:
            number = float(value)
            return int(number) if number.is_integer() else number
        return value
