"""A prefix's card: name, tags, licence and notes that people wrote, and the facts of how it was trained.

It lies beside the prefix as ``README.md``: Markdown with YAML in front, as cards on hubs are, so that a hub shows it
and huggingface_hub's ``ModelCard`` reads it. What others have put there stays. Knows this layout and its limits; where
facts come from is `facts.py`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from chatglm2.errors import RunError
from chatglm2.files import read_regular
from training.runs.storage import explaining_storage_errors, write_atomically
from training.settings.problems import describe_problem

CARD_FILE = "README.md"
LARGEST_CARD_BYTES = 256 * 2**10
LONGEST_NAME, LONGEST_TAG, MOST_TAGS, LONGEST_LICENSE, LONGEST_NOTES = 80, 40, 20, 100, 20_000
# What is ours in a card's YAML; all other keys are the hub's.
OURS = "chatglm2_prefix"
# Every card of ours has these, so that a hub finds it; they are no tags of its author.
OUR_TAGS = ("chatglm2", "p-tuning-v2")
STANDING = {"library_name": "chatglm2-ptuning", "pipeline_tag": "text-generation"}
# What a hub takes as a licence; any other is "other" with a name.
HUB_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "openrail", "bigscience-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0"),
        *("bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "wtfpl", "epl-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0"),
        *("gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "ms-pl", "mpl-2.0", "odc-by", "odbl", "osl-3.0"),
        *("postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "unknown"),
    }
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
FACTS_BEGIN = "<!-- facts: written anew with every change of the card -->"
FACTS_END = "<!-- /facts -->"
# Control characters, and those that turn the direction of what follows.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class CardError(RunError):
    """A card that cannot be read."""


def _one_line(text: str) -> str:
    return " ".join(UNSEEN.sub(" ", text).split())


def _without_repeats(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def _lines(text: str) -> str:
    text = re.sub(r"\r\n?", "\n", text)
    return text.replace(FACTS_BEGIN, "").replace(FACTS_END, "").strip()


def _as_list(tags: object) -> object:
    """A hub's card may have one tag as plain text."""
    return [tags] if isinstance(tags, str) else tags or []


Line = Annotated[str, AfterValidator(_one_line)]
Tag = Annotated[str, AfterValidator(_one_line), Field(max_length=LONGEST_TAG)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Facts(BaseModel):
    """How a prefix was trained and what it was found to do; what nobody knows is None or "".

    Attributes:
        base_model: hub id of the base, or the last part of its directory's path.
        base_fingerprint: of the base's weights; see `training.library.base`.
        data_file: name of the training data's file, without its directory.
        data_rows: rows that were trained on.
        step: after how many steps it was saved.
        prefix_tokens: its length.
        loss, validation_loss: there.
        rouge_l, bleu_4: means from 0 to 100, on ``evaluated_rows`` rows of ``evaluated_on``.
        kept: likeness of its answers to general questions to the base's own, from 0 to 100.
        strength: what an evaluation proposes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: Annotated[Line, Field(max_length=200)] = ""
    base_model: Annotated[Line, Field(max_length=200)] = ""
    base_fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    data_file: Annotated[Line, Field(max_length=255)] = ""
    data_rows: Count | None = None
    step: Count | None = None
    prefix_tokens: Count | None = None
    projection: bool = False
    loss: Number | None = None
    validation_loss: Number | None = None
    rouge_l: Percent | None = None
    bleu_4: Percent | None = None
    evaluated_on: Annotated[Line, Field(max_length=255)] = ""
    evaluated_rows: Count | None = None
    kept: Percent | None = None
    strength: Annotated[float, Field(ge=0, le=2)] | None = None
    created: datetime | None = None

    def known(self) -> dict[str, Any]:
        """Only what somebody knows, as YAML and JSON have it."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Card(BaseModel):
    """What is said of a prefix. ``other`` is what a hub's card holds besides: it is kept as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[Line, Field(max_length=LONGEST_NAME)] = ""
    tags: Annotated[
        tuple[Tag, ...], BeforeValidator(_as_list), AfterValidator(_without_repeats), Field(max_length=MOST_TAGS)
    ] = ()
    license: Annotated[Line, Field(max_length=LONGEST_LICENSE)] = ""
    notes: Annotated[str, AfterValidator(_lines), Field(max_length=LONGEST_NOTES)] = ""
    facts: Facts = Facts()
    other: dict[str, Any] = {}

    def edited(self, **changes: Any) -> Self:
        """Another card; what was typed is checked.

        Raises:
            CardError: it is too long, or too much.
        """
        return self.checked({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """A card of these values.

        Raises:
            CardError: naming the first that cannot be.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _refusal(error) from error

    def to_markdown(self) -> str:
        """The whole file."""
        from huggingface_hub.repocard_data import CardData  # not needed to list what has no card

        parts = [f"# {self.name}"] if self.name else []
        parts += [self.notes] if self.notes else []
        parts += ["\n".join([FACTS_BEGIN, *_facts_table(self.facts), FACTS_END])]
        return f"---\n{CardData(**self._front()).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"

    def _front(self) -> dict[str, Any]:
        """The YAML: first what a hub understands."""
        front = {**STANDING, **self.other, "tags": [*OUR_TAGS, *self.tags]}
        ours: dict[str, Any] = {"name": self.name} if self.name else {}
        if self.license.lower() in HUB_LICENSES:
            front["license"] = self.license.lower()
        elif self.license:
            front |= {"license": "other", "license_name": _license_id(self.license)}
            ours["license"] = self.license
        if HUB_ID.fullmatch(self.facts.base_model):
            front |= {"base_model": self.facts.base_model, "base_model_relation": "adapter"}
        return {**front, OURS: {**ours, **self.facts.known()}}


def split_tags(text: str) -> list[str]:
    """Tags as people type them, between commas of either kind."""
    return [tag.strip() for tag in re.split("[,，、;；\n]", text)]


def card_file(place: Path) -> Path:
    """Where the card of a checkpoint's directory lies, or of a lone prefix file."""
    return place.with_name(f"{place.name}.md") if place.is_file() else place / CARD_FILE


def read_card(place: Path) -> Card | None:
    """The card of the prefix at ``place``; None where it has none.

    Raises:
        CardError: what lies there is no card, is too large or cannot be read.
    """
    file = card_file(place)
    try:
        text = read_regular(file, LARGEST_CARD_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _unreadable(file, "it is not UTF-8", "它不是 UTF-8 编码") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _unreadable(file, reason, reason) from error
    try:
        return parse_card(text)
    except CardError as error:
        raise _unreadable(file, error.en, error.zh) from error


def write_card(place: Path, card: Card) -> None:
    """Put the card beside the prefix at ``place``; no other file is touched.

    Raises:
        RunError: it cannot be written there.
    """
    file = card_file(place)
    with explaining_storage_errors(file):
        write_atomically(file, card.to_markdown())


def parse_card(text: str) -> Card:
    """The card that a file's text holds, whoever wrote it.

    Raises:
        CardError: its YAML cannot be read, or says what cannot be.
    """
    front, body = _split(text)
    ours = front.pop(OURS, {})
    if not isinstance(ours, dict):
        raise CardError(f"{OURS} must be an object", f"{OURS} 应为对象")
    name = ours.pop("name", "")
    try:
        facts = Facts.model_validate(ours)
    except ValidationError as error:
        raise _refusal(error) from error
    license_name, license_id = front.pop("license_name", None), front.pop("license", None)
    own_license = ours.get("license", "")
    if license_id == "other" and license_name:
        kept = isinstance(own_license, str) and _license_id(own_license) == license_name
        license_id = own_license if kept else license_name
    tags = _as_list(front.pop("tags", None))
    if isinstance(tags, list):
        tags = [tag for tag in tags if tag not in OUR_TAGS]
    for key in ("base_model", "base_model_relation") if front.get("base_model") == facts.base_model else ():
        front.pop(key, None)
    other = {key: value for key, value in front.items() if STANDING.get(key) != value}
    return Card.checked(
        {
            "name": name,
            "tags": tags,
            "license": license_id or "",
            "notes": _notes(body, name),
            "facts": facts,
            "other": other,
        }
    )


def _split(text: str) -> tuple[dict[str, Any], str]:
    """The YAML in front, read, and what follows it."""
    from huggingface_hub import ModelCard

    if not text.lstrip().startswith("---"):
        return {}, text
    try:
        # Whatever a damaged file leads to; PyYAML's own errors are not ours to import.
        card = ModelCard(text, ignore_metadata_errors=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CardError(f"the YAML at its beginning is broken ({reason})", f"开头的 YAML 有误（{reason}）") from error
    return {str(key): value for key, value in card.data.to_dict().items()}, card.text


def _notes(body: str, name: object) -> str:
    """What people wrote: without the facts, and without the name above it."""
    before, begin, rest = body.partition(FACTS_BEGIN)
    if begin:
        before += rest.partition(FACTS_END)[2]
    notes = before.strip()
    first, _, after = notes.partition("\n")
    return after.strip() if name and first.strip() == f"# {name}" else notes


def _license_id(text: str) -> str:
    """A licence's name as a hub takes one."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "see-card"


def _facts_table(facts: Facts) -> Iterator[str]:
    lines = [(title, str(value)) for title, value in _fact_lines(facts) if value not in (None, "")]
    if not lines:
        return
    yield from ("| | |", "|---|---|")
    for title, value in lines:
        escaped = value.replace("|", "\\|")
        yield f"| {title} | {escaped} |"


def _fact_lines(facts: Facts) -> Iterator[tuple[str, object]]:
    """Titles in both languages, since a card has one text for all its readers."""
    projection = " (projection)" if facts.projection else ""
    yield "Base model 基座模型", facts.base_model
    yield "Prefix 前缀", f"{facts.prefix_tokens} tokens{projection}" if facts.prefix_tokens else None
    yield "Data 数据", facts.data_file
    yield "Rows 行数", facts.data_rows
    yield "Steps 步数", facts.step
    yield "Loss 损失", _rounded(facts.loss, 4)
    yield "Validation loss 验证损失", _rounded(facts.validation_loss, 4)
    yield "ROUGE-L", _rounded(facts.rouge_l, 2)
    yield "BLEU-4", _rounded(facts.bleu_4, 2)
    yield "Evaluated on 评估数据", facts.evaluated_on
    yield "General answers kept 通用回答保留 (%)", _rounded(facts.kept, 1)
    yield "Proposed strength 建议强度", _rounded(facts.strength, 2)
    yield "Created 创建时间", facts.created.strftime("%Y-%m-%d") if facts.created else None


def _rounded(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}".rstrip("0").rstrip(".")


_TITLES = {
    "name": ("the name", "名称"),
    "tags": ("a tag", "标签"),
    "license": ("the licence", "许可"),
    "notes": ("the note", "备注"),
}


def _refusal(error: ValidationError) -> CardError:
    first = error.errors(include_url=False)[0]
    title = _TITLES.get(str(first["loc"][0])) if first["loc"] else None
    limit = first.get("ctx", {}).get("max_length")
    if title is None or limit is None:
        return CardError(*describe_problem(error))
    if first["loc"] == ("tags",):
        return CardError(f"There are more than {limit} tags. Leave some out.", f"标签超过 {limit} 个，请减少一些。")
    return CardError(
        f"{title[0].capitalize()} is longer than {limit} characters. Shorten it.",
        f"{title[1]}超过 {limit} 个字符，请缩短。",
    )


def _unreadable(file: Path, en: str, zh: str) -> CardError:
    return CardError(
        f"The card {file} cannot be read: {en.rstrip('.')}. Mend or delete that file; the prefix works without it.",
        f"无法读取卡片 {file}：{zh.rstrip('。')}。请修正或删除该文件；没有它前缀也能使用。",
    )
