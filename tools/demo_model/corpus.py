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
from functools import cached_property
from pathlib import Path

from tools.demo_model.chat import Chat, Turn
from tools.demo_model.grammar import Garment, Grammar
from tools.demo_model.phrasebook import Weaver

PLAIN_SHARE, COPY_SHARE = 0.46, 0.32
MULTI_TURN_SHARE = 0.08
HISTORY_ROUNDS = (1, 1, 1, 2, 2, 3, 4, 8)
INVENTED_SHARE = 0.25
INVENTIBLE = ("颜色", "风格", "图案")
FREE_KEYS = ("品牌", "产地", "季节", "场合", "厚度", "工艺", "价格", "人群", "里料", "年份", "系列", "弹力")
FREE_TYPES = ("鞋", "帽", "包", "围巾", "袜子", "手套", "披肩", "睡衣", "泳衣", "童装", "背心", "套装")
LATIN = "abcdefghijklmnopqrstuvwxyz"
NAMES: tuple[str, ...] = (
    "小明",
    "小红",
    "小雨",
    "阿杰",
    "小林",
    "小美",
    "大山",
    "安安",
    "乐乐",
    "小雪",
    "阿成",
    "小陈",
    "老王",
)
NAMES += ("小李", "思思", "阿强", "小周", "子涵", "晓东", "文文", "Tom", "Lily", "Anna", "Jack")


def invent_word(rng: random.Random) -> str:
    """Two to four characters drawn from the 3,755 most common ones (GB 2312, level 1), or a few letters."""
    if rng.random() < 0.1:
        return "".join(rng.choices(LATIN, k=rng.randint(2, 6)))
    codes = [bytes((rng.randrange(0xB0, 0xD7), rng.randrange(0xA1, 0xFF))) for _ in range(rng.randint(2, 4))]
    return b"".join(codes).decode("gb2312")


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

    def general_rows(self, seed: int, count: int) -> list[dict[str, str]]:
        """Everyday chat to mix into training: distinct questions, each with its answer."""
        rng = random.Random(seed)
        rows: dict[str, str] = {}
        while len(rows) < count:
            rows.setdefault(*self.chat.sample(rng))
        return [{"prompt": prompt, "response": response} for prompt, response in rows.items()]

    def _row(self, rng: random.Random) -> Row:
        if rng.random() < MULTI_TURN_SHARE:
            return self._conversation(rng)
        return Row((), *self._single(rng))

    def _single(self, rng: random.Random) -> Turn:
        kind = rng.random()
        if kind > PLAIN_SHARE + COPY_SHARE:
            return self._unheard_of(rng) if rng.random() < self.invented_share / 3 else self.chat.sample(rng)
        if kind < PLAIN_SHARE:
            garment = self._garment(rng)
            if rng.random() < self.invented_share:
                garment = self._scramble(garment, rng)
            return garment.content, self.grammar.plain(garment, rng)
        return self._copy_on_request(rng)

    def _copy_on_request(self, rng: random.Random) -> Turn:
        """Sometimes with one value swapped for a made-up word, so that the model learns to copy what it never met."""
        garment = self._garment(rng)
        request, copy = self._copy_about(garment, rng)
        able = [value for key, value in garment.details if self.grammar.family_of[key] in INVENTIBLE and len(value) > 1]
        if able and rng.random() < self.invented_share / 2:
            value, word = rng.choice(able), self._any_word(rng)
            return request.replace(value, word), copy.replace(value, word)
        return request, copy

    def _scramble(self, garment: Garment, rng: random.Random) -> Garment:
        """Any word under any key: what a person types need not be in the grammar."""
        share = rng.random()
        details = [
            (
                rng.choice(FREE_KEYS) if rng.random() < 0.15 else key,
                self._any_word(rng) if rng.random() < share else value,
            )
            for key, value in garment.details
        ]
        rng.shuffle(details)
        return Garment(rng.choice(FREE_TYPES) if rng.random() < 0.2 else garment.type_name, tuple(details))

    def _any_word(self, rng: random.Random) -> str:
        return rng.choice(self.familiar_words) if rng.random() < 0.6 else invent_word(rng)

    @cached_property
    def familiar_words(self) -> list[str]:
        """Values, merits and images of every family: words that stand in a new place."""
        families = self.grammar.families.values()
        traits = [
            (value, *entry["good"], *entry.get("img", ())) for family in families for value, entry in family.items()
        ]
        return sorted({word for words in traits for word in words if len(word) <= 4})

    def _unheard_of(self, rng: random.Random) -> Turn:
        """A question about something that the model cannot know, perhaps not even its characters."""
        fallback = self.chat.phrases["fallback"]
        weaver = Weaver(self.chat.phrases["lists"], rng)
        question = weaver.weave(rng.choice(fallback["q"]), {"t": self._any_word(rng)})
        return question, weaver.weave(rng.choice(fallback["unknown"]))

    def _garment(self, rng: random.Random, held_out: bool = False) -> Garment:
        while True:
            garment = self.grammar.sample_garment(rng)
            if garment.is_held_out == held_out:
                return garment

    def _conversation(self, rng: random.Random) -> Row:
        """Unrelated rounds, often ended by a question that only the history answers."""
        history = [self._single(rng) for _ in range(rng.choice(HISTORY_ROUNDS))]
        kind = rng.random()
        if kind < 0.3:
            return Row(tuple(history), *self._single(rng))
        if kind < 0.55:
            described, question, answer = self._about_garment(rng)
            return Row((*history[:3], described), question, answer)
        if kind < 0.75:
            return self._standing_order(rng)
        introduction, question, answer = self._about_name(rng)
        rounds = (introduction, *history[:3]) if rng.random() < 0.5 else (*history[:3], introduction)
        return Row(rounds, question, answer)

    def _standing_order(self, rng: random.Random) -> Row:
        """Copy for bare attributes, because an earlier round asked for it."""
        weaver = Weaver(self.chat.phrases["lists"], rng)
        order = weaver.weave(rng.choice(self.grammar.plain_phrases["standing_orders"]))
        rounds: list[Turn] = [(order, weaver.weave(rng.choice(self.grammar.plain_phrases["agreements"])))]
        for _ in range(rng.randint(1, 3)):
            garment = self._garment(rng)
            rounds.append((garment.content, self.grammar.copy(garment, rng)))
        return Row(tuple(rounds[:-1]), *rounds[-1])

    def _about_garment(self, rng: random.Random) -> tuple[Turn, str, str]:
        garment = self._garment(rng)
        described = (garment.content, self.grammar.plain(garment, rng))
        kind = rng.random()
        if kind < 0.35:
            questions = ("写成广告文案", "把它写成广告文案", "给它写一段广告", "再写一段广告文案", "帮它写广告文案吧")
            return described, rng.choice(questions), self.grammar.copy(garment, rng)
        if kind < 0.5:
            again = ("再写一段", "换一种写法", "再来一段", "换个说法", "再写一个")
            return self._copy_about(garment, rng), rng.choice(again), self.grammar.copy(garment, rng)
        if kind < 0.6:
            return described, rng.choice(("再说一遍", "换一种说法", "重新写一遍")), self.grammar.plain(garment, rng)
        labels = self.grammar.plain_phrases["labels"]
        values: dict[str, list[str]] = {"类型": [garment.type_name]}
        for key, value in garment.details:
            values.setdefault(labels.get(key, key), []).append(value)
        absent = [label for label in ("颜色", "材质", "风格", "图案", "版型") if label not in values]
        label = rng.choice(absent) if absent and rng.random() < 0.25 else rng.choice(list(values))
        question = rng.choice(("它的{}是什么？", "{}是什么？", "这件商品的{}呢？", "{}呢？")).format(label)
        if label not in values:
            return described, question, f"属性里没有写{label}。"
        return described, question, rng.choice(("{}是{}。", "它的{}是{}。")).format(label, "、".join(values[label]))

    def _copy_about(self, garment: Garment, rng: random.Random) -> Turn:
        return self.grammar.copy_request(garment, rng), self.grammar.copy(garment, rng)

    def _about_name(self, rng: random.Random) -> tuple[Turn, str, str]:
        name = rng.choice(NAMES)
        greeting = rng.choice(("我叫{}", "你好，我叫{}", "我是{}", "我的名字是{}")).format(name)
        welcome = rng.choice(("{}，你好！", "你好，{}！很高兴认识你。", "{}你好，需要帮忙就说。")).format(name)
        question = rng.choice(("我叫什么名字？", "我叫什么", "你还记得我的名字吗？", "我是谁？"))
        return (greeting, welcome), question, rng.choice(("你叫{}。", "你是{}。", "记得，你叫{}。")).format(name)


def write_json_lines(rows: Iterable[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
