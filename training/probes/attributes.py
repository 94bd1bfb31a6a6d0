"""A file of attributes and templates: groups of words that stand for one another, and texts that one of them fills.

Knows the file and what it makes: pairs of texts that differ in the attribute alone. Knows no model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatglm2.errors import DataError
from training.runs.storage import read_json

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
MOST_PAIRS = 2000
EXAMPLE = (
    '{"attributes": [{"name": "pronoun", "groups": {"she": ["She"], "he": ["He"]}}], '
    '"templates": [{"prompt": "{pronoun} is an engineer. Is that usual?", "answers": ["Yes."]}]}'
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Attribute(_Part):
    """Groups by name, each with as many words; those at one place of two groups stand for one another."""

    name: str = Field(min_length=1)
    groups: dict[str, tuple[str, ...]] = Field(min_length=2)


class Template(_Part):
    """A prompt with one attribute's name in braces, and answers to it, which may have it, too.

    With answers, their likelihood is compared; without, the model's own answers are.
    """

    prompt: str = Field(min_length=1)
    answers: tuple[str, ...] = ()


class AttributeFile(_Part):
    """All of a file; `read_attributes` checks what the parts say of one another."""

    attributes: tuple[Attribute, ...] = Field(min_length=1)
    templates: tuple[Template, ...] = ()

    def attribute_of(self, template: Template) -> Attribute:
        """The one whose name stands in the template's prompt."""
        named = set(PLACEHOLDER.findall(template.prompt))
        return next(attribute for attribute in self.attributes if attribute.name in named)

    def pairs(self) -> Iterator[Pair]:
        """Every template with every two groups' words that stand for one another."""
        for number, template in enumerate(self.templates):
            attribute = self.attribute_of(template)
            for first, second in itertools.combinations(attribute.groups, 2):
                for words in zip(attribute.groups[first], attribute.groups[second], strict=True):
                    sides = [_fill(template, attribute.name, word) for word in words]
                    yield Pair(number, attribute.name, (first, second), words, (sides[0], sides[1]))


@dataclass(frozen=True)
class Side:
    """One text of a pair: a prompt, and what may be answered to it."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two texts that differ in an attribute alone.

    Attributes:
        template: its place in the file.
        attribute: its name.
        groups: the two that are compared.
        words: the groups' words that were filled in.
        sides: the texts.
    """

    template: int
    attribute: str
    groups: tuple[str, str]
    words: tuple[str, str]
    sides: tuple[Side, Side]


def _fill(template: Template, name: str, word: str) -> Side:
    mark = f"{{{name}}}"
    return Side(template.prompt.replace(mark, word), tuple(text.replace(mark, word) for text in template.answers))


def read_attributes(file: Path, *, needs_templates: bool = True) -> AttributeFile:
    """What a file says of attributes.

    Raises:
        DataError: it cannot be read, or is not as `AttributeFile` says.
    """
    try:
        found = AttributeFile.model_validate(read_json(file))
    except (OSError, ValueError) as error:
        raise _unusable(file, error) from error
    for attribute in found.attributes:
        _check_groups(file, attribute)
    for number, template in enumerate(found.templates, 1):
        _check_template(file, number, template, found)
    if needs_templates and not found.templates:
        raise DataError(
            f"{file.name} has no templates, so there is nothing to compare. Expected for example {EXAMPLE}.",
            f"{file.name} 没有模板（templates），无从比较。例如：{EXAMPLE}。",
        )
    count = sum(1 for _ in itertools.islice(found.pairs(), MOST_PAIRS + 1))
    if count > MOST_PAIRS:
        raise DataError(
            f"{file.name} makes more than {MOST_PAIRS:,} pairs. Use fewer words, groups or templates.",
            f"{file.name} 会产生超过 {MOST_PAIRS:,} 对文本，请减少词语、分组或模板。",
        )
    return found


def _unusable(file: Path, error: Exception) -> DataError:
    reason = str(error)
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    elif isinstance(error, OSError):
        reason = error.strerror or reason
    return DataError(
        f"{file.name} is no file of attributes ({reason}). Expected JSON such as {EXAMPLE}.",
        f"{file.name} 不是属性文件（{reason}）。应为 JSON，例如：{EXAMPLE}。",
    )


def _check_groups(file: Path, attribute: Attribute) -> None:
    counts = {name: len(words) for name, words in attribute.groups.items()}
    if len(set(counts.values())) == 1 and min(counts.values()) and all(map(all, attribute.groups.values())):
        return
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    raise DataError(
        f"{file.name}: the groups of {attribute.name!r} need equally many words, at least one each and none empty, as "
        f"those at one place stand for one another; found {listed}.",
        f"{file.name}：{attribute.name!r} 各组的词数应相同、至少一个且不为空（位置相同的词互相替换），"
        f"实际为 {listed}。",
    )


def _check_template(file: Path, number: int, template: Template, found: AttributeFile) -> None:
    names = {attribute.name for attribute in found.attributes}
    asked = set(PLACEHOLDER.findall(template.prompt)) & names
    said = set(PLACEHOLDER.findall("".join(template.answers))) & names
    if len(asked) == 1 and said <= asked and all(template.answers):
        return
    listed = ", ".join(f"{{{name}}}" for name in sorted(names))
    raise DataError(
        f"{file.name}, template {number}: expected exactly one of {listed} in the prompt, no other one in its answers, "
        "and no empty answer.",
        f"{file.name} 第 {number} 个模板：prompt 中应恰好有 {listed} 之一，answers 中不能有其他属性，"
        "也不能有空的回答。",
    )
