"""What pydantic finds wrong, as sentences in English and Chinese: the one place that knows its kinds of errors.

Knows words; does not know where a value came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from chatglm2.errors import RunError
from training.settings.field import SettingField, Words

_WHOLE_NUMBER: Words = ("a whole number", "整数")
_NUMBER: Words = ("a number", "数字")
_TRUTH: Words = ("true or false", " true 或 false")
_TEXT: Words = ("text", "文本")
_TYPES: dict[str, Words] = {"int": _WHOLE_NUMBER, "float": _NUMBER, "bool": _TRUTH, "str": _TEXT}
# By the beginning of pydantic's own name for an error.
_EXPECTED: dict[str, Words] = {
    **{"int_": _WHOLE_NUMBER, "float_": _NUMBER, "finite_": _NUMBER, "bool_": _TRUTH, "string_": _TEXT},
    **{"list_": ("a list", "列表"), "dict_": ("an object", "对象"), "model_": ("an object", "对象")},
    **{"json_": ("JSON", "JSON"), "missing": ("there", "存在")},
    **{"greater_": ("a larger number", "更大的数字"), "less_": ("a smaller number", "更小的数字")},
}


def setting_refusal(error: ValidationError, fields: Mapping[str, SettingField]) -> RunError:
    """The sentence for the first setting that is wrong: its flag, what it takes and what it was given."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if name not in fields:
        return unknown_setting(name, fields)
    item = fields[name]
    en, zh = _what_it_takes(item)
    found = first["input"]
    return RunError(
        f"{item.flag} must be {en}; found {found!r}. Default: {item.default}.",
        f"{item.flag} 应为{zh}，实际为 {found!r}。默认值：{item.default}。",
    )


def unknown_setting(name: str, known: Iterable[str]) -> RunError:
    """The error for a setting that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint_en = f" Did you mean --{near[0]}?" if near else " Run with --help for the list."
    hint_zh = f"您是否想写 --{near[0]}？" if near else "用 --help 查看全部设置。"
    return RunError(f"There is no setting --{name}.{hint_en}", f"没有 --{name} 这个设置。{hint_zh}")


def describe_problem(error: ValidationError) -> Words:
    """The first thing that is wrong in a file: its place, what belongs there, and what is there."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    en, zh = _what_belongs_there(first)
    if not place:
        return f"it must be {en}", f"内容应为{zh}"
    found = f"; found {first['input']!r}", f"，实际为 {first['input']!r}"
    if first["type"] == "missing":
        found = "", ""
    return f"{place} must be {en}{found[0]}", f"{place} 应为{zh}{found[1]}"


def _what_it_takes(item: SettingField) -> Words:
    if item.choices:
        return _one_of(", ".join(map(str, item.choices)))
    en, zh = _TYPES[item.type]
    if item.minimum is not None and item.maximum is not None:
        return (
            f"{en} from {item.minimum:g} to {item.maximum:g}",
            f" {item.minimum:g} 到 {item.maximum:g} 之间的{zh}",
        )
    if item.minimum is not None:
        return f"{en}, {item.minimum:g} or more", f"不小于 {item.minimum:g} 的{zh}"
    return en, zh


def _what_belongs_there(problem: ErrorDetails) -> Words:
    kind = problem["type"]
    if kind in ("enum", "literal_error"):
        return _one_of(str(problem["ctx"]["expected"]))
    return next(
        (words for start, words in _EXPECTED.items() if kind.startswith(start)), (problem["msg"], problem["msg"])
    )


def _one_of(listed: str) -> Words:
    return f"one of {listed}", f" {listed} 之一"
