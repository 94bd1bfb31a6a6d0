"""Everyday chat: greetings, honest self-description, facts, sums, English, Markdown and LaTeX.

Knows nothing of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from tools.demo_model.grammar import Grammar
from tools.demo_model.phrasebook import Weaver, load_phrases

Turn = tuple[str, str]


class Chat:
    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.phrases = load_phrases("chat")
        self.raw_answers: list[dict[str, list[str]]] = self.phrases["raw"]

    def sample(self, rng: random.Random) -> Turn:
        kinds: dict[Callable[[random.Random], Turn], float] = {
            self.intent: 0.32,
            self.raw: 0.12,
            self.sum: 0.30,
            self.fallback: 0.13,
            self.translation: 0.04,
            self.capital: 0.03,
            self.fabric: 0.06,
        }
        return rng.choices(list(kinds), list(kinds.values()))[0](rng)

    def intent(self, rng: random.Random) -> Turn:
        intents = self.phrases["intents"]
        return self._answer(rng.choices(intents, [entry["weight"] for entry in intents])[0], rng)

    def raw(self, rng: random.Random) -> Turn:
        entry = rng.choice(self.raw_answers)
        return self._weaver(rng).weave(rng.choice(entry["q"])), rng.choice(entry["a"]).strip("\n")

    def fallback(self, rng: random.Random) -> Turn:
        entry = self.phrases["fallback"]
        return self._answer(entry, rng, {"t": rng.choice(entry["topics"])})

    def capital(self, rng: random.Random) -> Turn:
        entry = self.phrases["capitals"]
        country, city = rng.choice(list(entry["pairs"].items()))
        return self._answer(entry, rng, {"c": country, "d": city})

    def translation(self, rng: random.Random) -> Turn:
        entry = self.phrases["translations"]
        chinese, english = rng.choice(list(entry["pairs"].items()))
        to_english = rng.random() < 0.5
        question = rng.choice(entry["to_english" if to_english else "to_chinese"])
        answer = f"{chinese}的英文是 {english}。" if to_english else f"{english} 的中文是“{chinese}”。"
        return self._weaver(rng).weave(question, {"c": chinese, "e": english}), answer

    def sum(self, rng: random.Random) -> Turn:
        sign, word, left, right, result = self._arithmetic(rng)
        forms: tuple[str, ...] = (
            "{a}{s}{b}=?",
            "{a} {s} {b} = ?",
            "{a} {s} {b} 等于多少？",
            "{a}{s}{b}等于几",
            "{a}{w}{b}等于多少？",
        )
        forms += ("{a}{w}{b}是多少", "算一下 {a} {s} {b}", "计算：{a}{s}{b}", "What is {a} {s} {b}?")
        question = rng.choice(forms).format(a=left, b=right, s=sign, w=word)
        return question, f"{left} {sign} {right} = {result}"

    def _arithmetic(self, rng: random.Random) -> tuple[str, str, int, int, int]:
        kind = rng.random()
        if kind < 0.55:
            left, right = rng.randrange(100), rng.randrange(100)
            return "+", "加", left, right, left + right
        if kind < 0.8:
            left, right = sorted((rng.randrange(100), rng.randrange(100)), reverse=True)
            return "-", "减", left, right, left - right
        left, right = rng.randrange(13), rng.randrange(13)
        return "×", "乘", left, right, left * right

    def fabric(self, rng: random.Random) -> Turn:
        """Knowledge of materials, as a sentence, a list or a table."""
        fabrics: Mapping[str, Mapping[str, Any]] = self.grammar.families["材质"]
        weaver = self._weaver(rng)
        names = rng.sample(list(fabrics), 3)
        merits = {name: rng.sample(fabrics[name]["good"], 2) for name in names}
        shape = rng.random()
        if shape < 0.4:
            question = "{name}{有什么特点|有什么优点|好不好|怎么样|面料如何|穿着舒服吗}{？|?}".replace(
                "{name}", names[0]
            )
            return weaver.weave(question), f"{names[0]}{merits[names[0]][0]}，{merits[names[0]][1]}。"
        if shape < 0.6:
            season, mark = rng.choice((("夏天", "warm"), ("冬天", "cool")))
            names = rng.sample([name for name in fabrics if fabrics[name].get(mark)], 3)
            lines = [f"- **{name}**：{rng.choice(fabrics[name]['good'])}" for name in names]
            question = season + "{穿什么面料好|适合什么面料|选什么料子|推荐几种面料}{？|?|}"
            return weaver.weave(question), "可以选：\n\n" + "\n".join(lines)
        question = "{比较|对比|比一比}{|一下}" + f"{names[0]}和{names[1]}" + "{|。|，用表格}"
        rows = [f"| {name} | {merits[name][0]} | {merits[name][1]} |" for name in names[:2]]
        return weaver.weave(question), "| 面料 | 特点 | 优点 |\n| --- | --- | --- |\n" + "\n".join(rows)

    def _weaver(self, rng: random.Random) -> Weaver:
        return Weaver(self.phrases["lists"], rng)

    def _answer(self, entry: Mapping[str, Any], rng: random.Random, variables: Mapping[str, str] | None = None) -> Turn:
        weaver = self._weaver(rng)
        question, answer = rng.choice(entry["q"]), rng.choice(entry["a"])
        return weaver.weave(question, variables), weaver.weave(answer, variables)
