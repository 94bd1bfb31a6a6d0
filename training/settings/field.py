"""What a setting is: its type, default, range and words, and how a value is read into it.

Knows no particular setting; `arguments.py` declares them all.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chatglm2.errors import RunError

Words = tuple[str, str]  # English, Chinese
SettingValue = int | float | bool | str | None
# The few settings that matter, the rest, and what only an evaluation reads.
GROUPS = ("basic", "advanced", "evaluation", "distributed")


@dataclass(frozen=True)
class SettingField:
    """One setting, with all that a form or a parser needs to offer it."""

    name: str
    type: str  # "int" | "float" | "bool" | "str"
    default: SettingValue
    optional: bool
    label: Words
    help: Words
    group: str  # one of GROUPS
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str | int, ...] = ()
    examples: tuple[str, ...] = ()  # values that a form may offer; others are as good

    @property
    def flag(self) -> str:
        """The command-line flag, which error messages name too."""
        return f"--{self.name}"

    def parse(self, value: object) -> SettingValue:
        """``value``, from a form, a flag or a file, as this setting's type and within its range.

        Raises:
            RunError: naming the flag, what it takes and what it was given.
        """
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
            if self.optional:
                return None
            if self.type != "str":
                raise self._refusal(value)
        parsed = self._convert(value)
        if self.choices and parsed not in self.choices:
            raise self._refusal(value)
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            too_small = self.minimum is not None and parsed < self.minimum
            too_large = self.maximum is not None and parsed > self.maximum
            if too_small or too_large or not math.isfinite(parsed):
                raise self._refusal(value)
        return parsed

    def _convert(self, value: object) -> SettingValue:
        if self.type == "str":
            return str(value) if value is not None else ""
        if self.type == "bool":
            return self._convert_bool(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise self._refusal(value)
        try:
            number = float(value)
        except ValueError:
            raise self._refusal(value) from None
        if self.type == "float":
            return number
        if not number.is_integer():
            raise self._refusal(value)
        return int(value) if not isinstance(value, str) else int(number)

    def _convert_bool(self, value: object) -> bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        answer = known.get(str(value).strip().lower())
        if answer is None:
            raise self._refusal(value)
        return answer

    def _refusal(self, value: object) -> RunError:
        en, zh = self._expectation()
        return RunError(
            f"{self.flag} must be {en}; found {value!r}. Default: {self.default}.",
            f"{self.flag} 应为{zh}，实际为 {value!r}。默认值：{self.default}。",
        )

    def _expectation(self) -> Words:
        if self.choices:
            listed = ", ".join(str(choice) for choice in self.choices)
            return f"one of {listed}", f" {listed} 之一"
        en, zh = {
            "int": ("a whole number", "整数"),
            "float": ("a number", "数字"),
            "bool": ("true or false", " true 或 false"),
            "str": ("text", "文本"),
        }[self.type]
        if self.minimum is not None and self.maximum is not None:
            return (
                f"{en} from {self.minimum:g} to {self.maximum:g}",
                f" {self.minimum:g} 到 {self.maximum:g} 之间的{zh}",
            )
        if self.minimum is not None:
            return f"{en}, {self.minimum:g} or more", f"不小于 {self.minimum:g} 的{zh}"
        return en, zh


def setting(
    default: SettingValue,
    label: Words,
    words: Words,
    *,
    group: str = "advanced",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str | int, ...] = (),
    examples: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its words and its range; ``Any`` as `dataclasses.field` itself is typed."""
    metadata = {
        "label": label,
        "help": words,
        "group": group,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "examples": examples,
    }
    return field(default=default, metadata=metadata)


def unknown_setting(name: str, known: Iterable[str]) -> RunError:
    """The error for a setting that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint_en = f" Did you mean --{near[0]}?" if near else " Run with --help for the list."
    hint_zh = f"您是否想写 --{near[0]}？" if near else "用 --help 查看全部设置。"
    return RunError(f"There is no setting --{name}.{hint_en}", f"没有 --{name} 这个设置。{hint_zh}")
