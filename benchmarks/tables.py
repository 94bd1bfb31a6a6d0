"""The README's tables from what the benchmarks printed.

    python -m benchmarks.generation --model DIR --quantization-bit 4 >> results.jsonl
    python -m benchmarks.tables results.jsonl        # writes them between the marks in README.md and README_zh.md

Without a file it takes what was measured for the README, in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = (RESULTS / "h100.jsonl", RESULTS / "one_card.jsonl")
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README_zh.md"}
Record = Mapping[str, Any]
Words = tuple[str, str]

# Of each row: its words, the benchmark and what else tells its record, the figure, and how it is written.
ANSWERING: tuple[tuple[Words, Record, str, str], ...] = (
    (("one answer, tokens/s", "单个回答，token/s"), {"benchmark": "decode", "streams": "one"}, "total", ",.0f"),
    (
        ("base and tuned together, tokens/s each", "基座与微调同时回答，各 token/s"),
        {"benchmark": "decode", "streams": "pair"},
        "tokens_per_second_each",
        ",.0f",
    ),
    (
        ("8 answers, tokens/s in total", "8 个回答，合计 token/s"),
        {"benchmark": "decode", "streams": "eight"},
        "total",
        ",.0f",
    ),
    (
        ("first token after a prompt of 2,048, ms", "2,048 token 提示后的首个 token，ms"),
        {"benchmark": "first token"},
        "milliseconds",
        ".0f",
    ),
    (
        ("GPU memory, a conversation of 8K tokens, GiB", "显存，8K token 的对话，GiB"),
        {"benchmark": "context", "tokens": 8192},
        "gpu_peak_gib",
        ".1f",
    ),
    (
        ("GPU memory, a conversation of 32K tokens, GiB", "显存，32K token 的对话，GiB"),
        {"benchmark": "context", "tokens": 32768},
        "gpu_peak_gib",
        ".1f",
    ),
)
TRAINING: tuple[tuple[Words, str], ...] = (
    (("FP16", "FP16"), "fp16"),
    (("INT4", "INT4"), "int4"),
    (("INT4, activations recomputed", "INT4，重算激活"), "int4, recomputed"),
    (("INT4, recomputed, one example at a time", "INT4，重算激活，逐条计算"), "int4, one by one"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=MEASURED)
    records = read_records(*parser.parse_args().files)
    for language, readme in READMES.items():
        text = readme.read_text(encoding="utf-8")
        for name, table in tables(records, language).items():
            text = put_between_marks(text, name, table)
        readme.write_text(text, encoding="utf-8")


def read_records(*files: Path) -> list[Record]:
    """The JSON lines of benchmarks' outputs; other lines are left out."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def tables(records: Iterable[Record], language: str) -> dict[str, str]:
    """Every table in Markdown, by the name of its marks."""
    records, word = list(records), int(language == "zh")
    answering = [["", "FP16", "INT4"]]
    for words, which, figure, style in ANSWERING:
        cells = [_figure(records, {**which, "quantization_bit": bits}, figure, style) for bits in (0, 4)]
        answering.append([words[word], *cells])
    training = [
        [
            ("16 examples a step", "每步 16 条样本")[word],
            ("s a step", "秒/步")[word],
            ("GPU memory, GiB", "显存，GiB")[word],
        ]
    ]
    for words, way in TRAINING:
        which = {"benchmark": "training", "way": way}
        seconds = _figure(records, which, "seconds_per_step", ".2f")
        training.append([words[word], seconds, _figure(records, which, "gpu_peak_gib", ".1f")])
    return {
        "answering": _markdown(answering),
        "training": _markdown(training),
        "one card": _markdown(_one_card(records, word)),
    }


def _one_card(records: list[Record], word: int) -> list[list[str]]:
    """What the whole job takes and gives on cards of several sizes."""
    heads = (
        ("card", "显卡"),
        ("memory at most, GiB", "最多占用显存，GiB"),
        ("s a step", "秒/步"),
        ("chat while training, share of its speed alone", "训练时的对话速度，相对单独对话"),
        ("first token then, ms", "此时首个 token，ms"),
    )
    rows = [[head[word] for head in heads]]
    for card in sorted({record["card_gib"] for record in records if record["benchmark"] == "one card"}):
        own = [record for record in records if record.get("card_gib") == card]
        talks = [record for record in own if record["event"] == "chat while training"]
        bits = own[0]["quantization_bit"]
        peak = next(record["whole_job_mib"] for record in own if record["event"] == "peak")
        shares = [record["share_of_alone"] for record in talks]
        rows.append(
            [
                f"{card:.0f} GiB, {f'INT{bits}' if bits else 'FP16'}",
                f"{peak / 1024:.1f}",
                _figure(own, {"event": "trained"}, "seconds_per_step", ".2f"),
                f"{min(*shares, 1):.0%} – {min(max(shares), 1):.0%}",
                f"{max(record['first_token_ms'] for record in talks):.0f}",
            ]
        )
    return rows


def put_between_marks(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between ``<!-- name -->`` and ``<!-- /name -->``."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"there are no marks <!-- {name} --> … <!-- /{name} -->")
    return marks.sub(lambda match: match[1] + table + match[2], text)


def _figure(records: Iterable[Record], which: Record, figure: str, style: str) -> str:
    """The last measured one, or a dash."""
    found = [record for record in records if all(record.get(key) == value for key, value in which.items())]
    return format(found[-1][figure], style) if found else "–"


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
