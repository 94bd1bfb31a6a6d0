"""Multiple-choice questions over what the demo model was taught: sums, capitals and translations.

In the shape of C-Eval, four options and the right one's letter. Wrong options are near the right one: other sums of the
same size, other capitals. Knows nothing of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tools.demo_model.phrasebook import load_phrases

LETTERS = "ABCD"
Row = dict[str, str]


def choice_rows(seed: int, count: int) -> list[Row]:
    """``count`` distinct questions, of each subject as many."""
    rng = random.Random(seed)
    phrases = load_phrases("chat")
    subjects = (_sums(rng), _capitals(rng, phrases["capitals"]["pairs"]), _words(rng, phrases["translations"]["pairs"]))
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = next(subjects[len(rows) % len(subjects)])
        rows.setdefault(row["question"], row)
    return list(rows.values())


def _sums(rng: random.Random) -> Iterator[Row]:
    while True:
        left, right = rng.randrange(1, 60), rng.randrange(1, 40)
        wrong = rng.sample([left + right + step for step in (-10, -2, -1, 1, 2, 10) if left + right + step >= 0], 3)
        yield _row(rng, "算术", f"{left} + {right} = ?", str(left + right), [str(number) for number in wrong])


def _capitals(rng: random.Random, pairs: dict[str, str]) -> Iterator[Row]:
    while True:
        country, city = rng.choice(list(pairs.items()))
        others = [other for other in pairs.values() if other != city]
        yield _row(rng, "首都", f"{country}的首都是哪里？", city, rng.sample(others, 3))


def _words(rng: random.Random, pairs: dict[str, str]) -> Iterator[Row]:
    while True:
        chinese, english = rng.choice(list(pairs.items()))
        others = [other for other in pairs.values() if other != english]
        yield _row(rng, "翻译", f"“{chinese}”的英文是什么？", english, rng.sample(others, 3))


def _row(rng: random.Random, subject: str, question: str, right: str, wrong: Sequence[str]) -> Row:
    options = [right, *wrong]
    rng.shuffle(options)
    answer = LETTERS[options.index(right)]
    return {"subject": subject, "question": question, **dict(zip(LETTERS, options, strict=True)), "answer": answer}
