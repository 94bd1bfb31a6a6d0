"""The docs' figures of what was measured: what is learnt and kept, over ``--keep`` and over a prefix's strength.

Points are means over the seeds that were measured. Where a ``--keep`` was measured with other steps or general rows
than it has today, and not yet with those, that stands. Colours follow the reader's light or dark; each
language has its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from jinja2 import Environment, FileSystemLoader

from tools.keeping.measure import OF_STRENGTH, Record, is_of, read_records, training_of

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
WIDTH, HEIGHT, TOP, BOTTOM = 760, 365, 34, 250
PANELS = ((44, 350), (424, 730))  # from where to where each goes
FIRST_KEY, KEY_HEIGHT = BOTTOM + 62, 20
Words = tuple[str, str]  # English, Chinese
Point = tuple[float, float]
# The figure, its class in the stylesheet, its words.
TASK = ("rouge_l", "task", ("ROUGE-L of adverts", "文案的 ROUGE-L"))
CHAT = ("chat_rouge_l", "chat", ("chat, ROUGE-L to the base's answers", "闲聊与基座回答的 ROUGE-L"))
SUMS = ("sums", "sums", ("sums right, %", "加法正确率，%"))
DRAWN = (TASK, CHAT, SUMS)
BASE: Words = ("the base model", "基座模型")
TITLES: tuple[Words, Words] = (("Learnt: the task", "学到的：任务"), ("Kept: everything else", "保留的：其他能力"))


@dataclass(frozen=True)
class Curve:
    """A figure's values over what varies, and how they are drawn."""

    field: str
    style: str
    words: Words
    points: list[Point]


@dataclass(frozen=True)
class Tick:
    """A value and its place."""

    value: str
    at: float


def draw_all(directory: Path = FIGURES) -> None:
    """Write both figures in both languages."""
    records = read_records()
    directory.mkdir(exist_ok=True)
    base = next(record for record in records if record["keep"] is None)
    trained = [record for record in records if record["keep"] is not None]
    whole = _newest([record for record in trained if record["strength"] == 1])
    own = [record for record in trained if is_of(record, training_of(OF_STRENGTH))]
    seeds = {record["seed"] for record in own if record["strength"] != 1}
    at_strengths = [base, *(record for record in own if record["seed"] in seeds)]
    _write(directory / "keep", [_curve(whole, "keep", *item) for item in DRAWN], base, ("--keep", "--keep"))
    _write(
        directory / "strength", [_curve(at_strengths, "strength", *item) for item in DRAWN], base, ("strength", "强度")
    )


def _newest(records: list[Record]) -> list[Record]:
    """Of each ``--keep`` what was measured as it is today, or else what was."""
    today = [record for record in records if is_of(record, training_of(record["keep"]))]
    measured = {record["keep"] for record in today}
    return today + [record for record in records if record["keep"] not in measured]


def _curve(records: Iterable[Record], across: str, field: str, style: str, words: Words) -> Curve:
    values: dict[float, list[float]] = {}
    for record in records:
        values.setdefault(record[across], []).append(record[field])
    return Curve(field, style, words, sorted((x, mean(found)) for x, found in values.items()))


def _write(place: Path, curves: list[Curve], base: Record, across: Words) -> None:
    task, *rest = curves
    panels = [([task], (15, 20, 25, 30)), (rest, (0, 25, 50, 75, 100))]
    languages: tuple[Literal[0, 1], ...] = (0, 1)
    template = Environment(loader=FileSystemLoader(Path(__file__).parent)).get_template("figure.svg.jinja")
    for language in languages:
        laid = [
            _panel(place, TITLES[index][language], drawn, rows, base, language)
            for index, (place, (drawn, rows)) in enumerate(zip(PANELS, panels, strict=True))
        ]
        label = f"{TITLES[0][language]} · {TITLES[1][language]} · {across[language]}"
        shown = {"width": WIDTH, "height": HEIGHT, "panels": laid, "across": across[language], "label": label}
        place.with_name(f"{place.name}-{('en', 'zh')[language]}.svg").write_text(
            template.render(shown) + "\n", encoding="utf-8"
        )


def _panel(
    place: tuple[int, int],
    title: str,
    curves: list[Curve],
    rows: tuple[int, ...],
    base: Record,
    language: Literal[0, 1],
) -> dict[str, object]:
    """One of a figure's two halves, as the template wants it."""
    across = sorted({x for curve in curves for x, _ in curve.points})
    x = _scale(across[0], across[-1], place[0] + 12, place[1] - 12)
    y = _scale(rows[0], rows[-1], BOTTOM, TOP)
    words = [(curve.style, curve.words[language]) for curve in curves] + [("base", BASE[language])]
    return {
        **{"left": place[0], "right": place[1], "bottom": BOTTOM, "title": title},
        "rows": [Tick(str(row), y(row)) for row in rows],
        "columns": [Tick(f"{value:g}", x(value)) for value in across],
        "bases": [y(base[field]) for field in dict.fromkeys(curve.field for curve in curves)],
        "curves": [
            {"style": curve.style, "points": [(x(first), y(second)) for first, second in curve.points]}
            for curve in curves
        ],
        "legend": [
            {"style": style, "words": said, "at": FIRST_KEY + KEY_HEIGHT * index}
            for index, (style, said) in enumerate(words)
        ],
    }


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From a value to its place, to a tenth of a pixel."""
    return lambda value: round(start + (end - start) * (value - low) / (high - low), 1)
