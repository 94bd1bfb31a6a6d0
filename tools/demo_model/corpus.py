"""The training corpus and the sample data, generated from a seed.

A row is a conversation: finished rounds, a question and the answer to learn. Half of the rows describe bare attributes
plainly, a third write advertising copy because they were asked to, the rest chat. Held-out attribute combinations never
enter the corpus; the sample data is made of nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model.chat import Chat, Turn
from tools.demo_model.grammar import Garment, Grammar
from tools.demo_model.phrasebook import Weaver

PLAIN_SHARE, COPY_SHARE = 0.48, 0.34
MULTI_TURN_SHARE = 0.12
MAX_HISTORY_ROUNDS = 8
INVENTED_SHARE = 0.06
INVENTIBLE = ("颜色", "风格", "图案")
NAMES = ("小明", "小红", "小雨", "阿杰", "小林", "小美", "大山", "安安", "乐乐", "小雪", "阿成", "小陈", "老王")
NAMES += ("小李", "思思", "阿强", "小周", "子涵", "晓东", "文文", "Tom", "Lily", "Anna", "Jack")


def invent_word(rng: random.Random) -> str:
    """Two to four characters drawn from the 3,755 most common ones (GB 2312, level 1)."""
    rows = [bytes((rng.randrange(0xB0, 0xD7), rng.randrange(0xA1, 0xFF))) for _ in range(rng.randint(2, 4))]
    return b"".join(rows).decode("gb2312")


@dataclass(frozen=True)
class Row:
    history: tuple[Turn, ...]
    question: str
    answer: str


class Corpus:
    def __init__(self, invented_share: float = INVENTED_SHARE) -> None:
        self.invented_share = invented_share
        self.grammar = Grammar()
        self.chat = Chat(self.grammar)

    def rows(self, seed: int, count: int) -> Iterator[Row]:
        rng = random.Random(seed)
        for _ in range(count):
            yield self._row(rng)

    def sample_rows(self, seed: int, count: int) -> list[dict[str, str]]:
        """Rows of the sample data: distinct held-out combinations with their copy."""
        rng = random.Random(seed)
        rows: dict[str, str] = {}
        while len(rows) < count:
            garment = self._garment(rng, held_out=True)
            rows.setdefault(garment.content, self.grammar.copy(garment, rng))
        return [{"content": content, "summary": summary} for content, summary in rows.items()]

    def _row(self, rng: random.Random) -> Row:
        if rng.random() < MULTI_TURN_SHARE:
            return self._conversation(rng)
        return Row((), *self._single(rng))

    def _single(self, rng: random.Random) -> Turn:
        kind = rng.random()
        if kind > PLAIN_SHARE + COPY_SHARE:
            return self._unheard_of(rng) if rng.random() < self.invented_share else self.chat.sample(rng)
        garment = self._garment(rng)
        if kind < PLAIN_SHARE:
            turn = garment.content, self.grammar.plain(garment, rng)
        else:
            turn = self.grammar.copy_request(garment, rng), self.grammar.copy(garment, rng)
        return self._with_invented_value(garment, turn, rng) if rng.random() < self.invented_share else turn

    def _with_invented_value(self, garment: Garment, turn: Turn, rng: random.Random) -> Turn:
        """Swaps one value for a made-up word, so that the model learns to copy words that it has never met."""
        able = [value for key, value in garment.details if self.grammar.family_of[key] in INVENTIBLE and len(value) > 1]
        if not able:
            return turn
        value, word = rng.choice(able), invent_word(rng)
        return turn[0].replace(value, word), turn[1].replace(value, word)

    def _unheard_of(self, rng: random.Random) -> Turn:
        """A question about something that the model cannot know, not even its characters."""
        fallback = self.chat.phrases["fallback"]
        weaver = Weaver(self.chat.phrases["lists"], rng)
        question = weaver.weave(rng.choice(fallback["q"]), {"t": invent_word(rng)})
        return question, weaver.weave(rng.choice(fallback["unknown"]))

    def _garment(self, rng: random.Random, held_out: bool = False) -> Garment:
        while True:
            garment = self.grammar.sample_garment(rng)
            if garment.is_held_out == held_out:
                return garment

    def _conversation(self, rng: random.Random) -> Row:
        """Unrelated rounds, often ended by a question that only the history answers."""
        history = [self._single(rng) for _ in range(rng.randint(1, MAX_HISTORY_ROUNDS))]
        follow_up = rng.random()
        if follow_up < 0.4:
            question, answer = self._single(rng)
        elif follow_up < 0.75:
            described, question, answer = self._about_garment(rng)
            history = [*history[:3], described]
        else:
            introduction, question, answer = self._about_name(rng)
            history = [introduction, *history[:3]] if rng.random() < 0.5 else [*history[:3], introduction]
        return Row(tuple(history), question, answer)

    def _about_garment(self, rng: random.Random) -> tuple[Turn, str, str]:
        garment = self._garment(rng)
        described = (garment.content, self.grammar.plain(garment, rng))
        kind = rng.random()
        if kind < 0.35:
            questions = ("写成广告文案", "把它写成广告文案", "给它写一段广告", "再写一段广告文案", "帮它写广告文案吧")
            return described, rng.choice(questions), self.grammar.copy(garment, rng)
        if kind < 0.55:
            written = (self.grammar.copy_request(garment, rng), self.grammar.copy(garment, rng))
            again = ("再写一段", "换一种写法", "再来一段", "换个说法", "再写一个")
            return written, rng.choice(again), self.grammar.copy(garment, rng)
        if kind < 0.65:
            return described, rng.choice(("再说一遍", "换一种说法", "重新写一遍")), self.grammar.plain(garment, rng)
        key, value = rng.choice([("类型", garment.type_name), *garment.details])
        label = self.grammar.plain_phrases["labels"].get(key, key)
        question = rng.choice(("它的{}是什么？", "{}是什么？", "这件商品的{}呢？", "{}呢？")).format(label)
        return described, question, rng.choice(("{}是{}。", "它的{}是{}。")).format(label, value)

    def _about_name(self, rng: random.Random) -> tuple[Turn, str, str]:
        name = rng.choice(NAMES)
        greeting = rng.choice(("我叫{}", "你好，我叫{}", "我是{}", "我的名字是{}")).format(name)
        welcome = rng.choice(("{}，你好！", "你好，{}！很高兴认识你。", "{}你好，需要帮忙就说。")).format(name)
        question = rng.choice(("我叫什么名字？", "我叫什么", "你还记得我的名字吗？", "我是谁？"))
        return (greeting, welcome), question, rng.choice(("你叫{}。", "你是{}。", "记得，你叫{}。")).format(name)


def write_json_lines(rows: Iterable[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
