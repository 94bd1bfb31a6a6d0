"""The doctor's checks, each from a file's rows to what it finds, or to nothing.

Knows what is wrong with rows; does not know in which order that is told, nor to whom.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from training.data.doctor.findings import Finding, Kind, Words, describe_places, plural
from training.data.doctor.records import Identity, Records, identity_of, question_of
from training.data.encoding import Example, ExampleEncoder

SHOWN_DETAILS = 3
NAMED_CHARACTERS = 4
# A second's work with the real tokenizer is about ten thousand rows; of more, those are measured that lie evenly.
MEASURED_ROWS = 50_000
# Control characters, text direction and joints that nobody sees, marks of broken text, characters of private use. What
# holds emoji and some scripts together (U+200C, U+200D) is no fault.
ODD_CHARACTERS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffd\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]"
)


def find_broken(records: Records) -> Finding | None:
    """Rows that training refuses."""
    bad = records.table.bad_rows
    if not bad.numbers:
        return None
    count = len(bad.numbers)
    says = (
        f"{plural(count, 'row', 'rows')} cannot be read: training needs --skip_bad_rows to leave them out.",
        f"{count:,} 行无法读取：训练时需用 --skip_bad_rows 跳过。",
    )
    details = tuple((error.en, error.zh) for error in bad.first)
    places = tuple(sorted(bad.numbers))
    return Finding(Kind.BROKEN, says, places, describe_places(records.table, places), details)


def find_empty(records: Records) -> Finding | None:
    """Rows in which a cell holds no text."""

    def detail(place: int) -> Words:
        example = records.empty[place][1]
        column = records.columns.response if example.prompt.strip() else records.columns.prompt
        return f"{column!r} is empty", f"{column!r} 列为空"

    count = len(records.empty)
    says = (
        f"{plural(count, 'row has', 'rows have')} an empty prompt or answer.",
        f"{count:,} 行的提示或回答为空。",
    )
    return _finding(records, Kind.EMPTY, says, [index for index, _ in records.empty], detail)


def find_duplicates(records: Records) -> Finding | None:
    """Rows that say what an earlier one says: each counts twice in training."""
    repeated = repeated_rows(records)
    firsts = list(repeated.values())

    def detail(place: int) -> Words:
        en, zh = records.table.place(firsts[place])
        return f"the same as {en}", f"与{zh}相同"

    count = len(repeated)
    says = (
        f"{plural(count, 'row repeats', 'rows repeat')} an earlier one word for word.",
        f"{count:,} 行与前面的某一行完全相同。",
    )
    return _finding(records, Kind.DUPLICATE, says, list(repeated), detail)


def repeated_rows(records: Records) -> dict[int, int]:
    """Rows that repeat another, by their place in the table, with the first that says the same."""
    seen: dict[Identity, int] = {}
    repeated = {}
    for index, example in records.usable:
        first = seen.setdefault(identity_of(example), index)
        if first != index:
            repeated[index] = first
    return repeated


def find_leaks(records: Records, training: Records) -> Finding | None:
    """Rows to validate on whose question is trained on, too."""
    trained = {question_of(example): index for index, example in reversed(training.usable)}
    leaks = [(index, trained[question]) for index, row in records.usable if (question := question_of(row)) in trained]

    def detail(place: int) -> Words:
        en, zh = training.table.place(leaks[place][1])
        return f"asked in {name}, {en}", f"{name} {zh}已有同样的提示"

    name, count = training.table.path.name, len(leaks)
    says = (
        f"{plural(count, 'row asks', 'rows ask')} what {name} asks, too: what is measured on them says little.",
        f"{count:,} 行的提示也出现在 {name} 中，用它们得到的评估结果没有意义。",
    )
    return _finding(records, Kind.LEAK, says, [index for index, _ in leaks], detail)


def find_odd(records: Records) -> Finding | None:
    """Rows with characters that nobody means to write."""
    found = [(index, marks) for index, row in records.usable if (marks := _odd_characters(row))]
    counts = Counter(mark for _, marks in found for mark in marks)
    named = ", ".join(map(_name_of, [mark for mark, _ in counts.most_common(NAMED_CHARACTERS)]))

    def detail(place: int) -> Words:
        names = ", ".join(map(_name_of, found[place][1][:NAMED_CHARACTERS]))
        return f"holds {names}", f"含有 {names}"

    count = len(found)
    says = (
        f"{plural(count, 'row holds', 'rows hold')} characters that are invisible or stand for broken text: {named}.",
        f"{count:,} 行含有看不见的字符或乱码：{named}。",
    )
    return _finding(records, Kind.ODD, says, [index for index, _ in found], detail)


def find_long(records: Records, encoder: ExampleEncoder) -> tuple[list[Finding], dict[str, int]]:
    """Prompts and answers that the limits cut, and limits that would cut nothing."""
    stride = -(-len(records.usable) // MEASURED_ROWS)
    measured = records.usable[:: max(stride, 1)]
    lengths = [encoder.count_tokens(example) for _, example in measured]
    indices = [index for index, _ in measured]
    among = ("", "")
    if stride > 1:
        among = (f" of the {len(measured):,} rows that were measured", f"（在抽样测量的 {len(measured):,} 行中）")
    findings, limits = [], {}
    for place, (kind, flag, what, limit) in enumerate(
        (
            (Kind.LONG_PROMPT, "max_source_length", ("prompt", "提示"), encoder.max_source_length),
            (Kind.LONG_ANSWER, "max_target_length", ("answer", "回答"), encoder.max_target_length),
        )
    ):
        tokens = [pair[place] for pair in lengths]
        if finding := _find_cut(records, kind, flag, what, limit, dict(zip(indices, tokens, strict=True)), among):
            findings.append(finding)
            limits[flag] = max(tokens)
    return findings, limits


def _find_cut(
    records: Records, kind: Kind, flag: str, what: Words, limit: int, tokens: dict[int, int], among: Words
) -> Finding | None:
    cut = {index: count for index, count in tokens.items() if count > limit}
    counts = list(cut.values())
    longest = max(counts, default=0)
    says = (
        f"{plural(len(cut), f'{what[0]} is', f'{what[0]}s are')} longer than --{flag} {limit}{among[0]} and would be "
        f"cut. The longest has {longest:,} tokens.",
        f"{len(cut):,} 条{what[1]}超过 --{flag} {limit}{among[1]}，会被截断。最长的有 {longest:,} 个 token。",
    )
    return _finding(
        records, kind, says, list(cut), lambda place: (f"{counts[place]:,} tokens", f"{counts[place]:,} 个 token")
    )


def _finding(
    records: Records, kind: Kind, says: Words, indices: Sequence[int], detail: Callable[[int], Words]
) -> Finding | None:
    """A finding about rows of the table; ``detail`` says what is wrong with the one at a place of ``indices``."""
    if not indices:
        return None
    details = []
    for place, index in enumerate(indices[:SHOWN_DETAILS]):
        place_en, place_zh = records.table.place(index)
        en, zh = detail(place)
        details.append((f"{place_en}: {en}", f"{place_zh}：{zh}"))
    places = records.lines_of(list(indices))
    return Finding(kind, says, places, describe_places(records.table, places), tuple(details))


def _odd_characters(example: Example) -> list[str]:
    texts = (example.prompt, example.response, *(text for turn in example.history for text in turn))
    return list(dict.fromkeys(mark for text in texts for mark in ODD_CHARACTERS.findall(text)))


def _name_of(mark: str) -> str:
    name = unicodedata.name(mark, "")
    return f"U+{ord(mark):04X}{f' {name}' if name else ''}"
