"""A seeded grammar of clothing: garments, their plain descriptions, and advertising copy that names every attribute.

Attribute keys are those of the AdvertiseGen data (``类型#上衣*材质#棉*…``); every phrase is this project's own. Knows
nothing of tokens or models.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tools.demo_model.phrasebook import Weaver, load_phrases

NOUN_FAMILIES = ("样式", "裙型", "裙长", "裤型", "裤长")
MODIFIER_ORDER = ("风格", "版型", "颜色", "材质", "图案")
STUTTER = re.compile(r"(.{2,})\1")
HELD_OUT_SHARE = 40  # one attribute combination in so many is never trained on


@dataclass(frozen=True)
class Garment:
    """One product: its type and its other attributes as (key, value) pairs in the data's order."""

    type_name: str
    details: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, content: str) -> Garment:
        (_, type_name), *details = (pair.split("#", 1) for pair in content.split("*"))
        return cls(type_name, tuple((key, value) for key, value in details))

    @property
    def content(self) -> str:
        pairs = (("类型", self.type_name), *self.details)
        return "*".join(f"{key}#{value}" for key, value in pairs)

    @property
    def values(self) -> tuple[str, ...]:
        return (self.type_name, *(value for _, value in self.details))

    @property
    def is_held_out(self) -> bool:
        combination = "*".join(sorted(self.content.split("*")))
        return int.from_bytes(hashlib.sha256(combination.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


class Grammar:
    def __init__(self) -> None:
        garments = load_phrases("garments")
        self.families: dict[str, dict[str, dict[str, Any]]] = garments["families"]
        self.types: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in garments["types"]}
        self.clashes = {frozenset((a, b)) for a, others in garments["clashes"]["pairs"] for b in others.split()}
        self.words: Mapping[str, Sequence[str]] = load_phrases("words")
        self.details = load_phrases("details")
        self.copy_phrases = load_phrases("copy")
        self.plain_phrases = load_phrases("plain")

    @cached_property
    def family_of(self) -> dict[str, str]:
        return {key["key"]: key["family"] for entry in self.types.values() for key in entry["keys"]}

    def sample_garment(self, rng: random.Random, min_details: int = 3, max_details: int = 6) -> Garment:
        """A garment whose attributes get along: no clashing values, no summer silk under a winter coat."""
        while True:
            entry = rng.choice(list(self.types.values()))
            details = self._sample_details(entry, rng)
            if min_details <= len(details) <= max_details:
                return Garment(entry["name"], tuple(details))

    def _sample_details(self, entry: Mapping[str, Any], rng: random.Random) -> list[tuple[str, str]]:
        chosen: list[tuple[str, str]] = []
        for key in entry["keys"]:
            for _ in range(1 + (key.get("double", False) and rng.random() < 0.2)):
                if rng.random() < key["share"] and ("needs" not in key or key["needs"] in dict(chosen).values()):
                    value = rng.choice(list(self.families[key["family"]]))
                    if self._fits(key["family"], value, chosen, entry["name"]):
                        chosen.append((key["key"], value))
        return chosen

    def _fits(self, family: str, value: str, chosen: Sequence[tuple[str, str]], type_name: str) -> bool:
        traits = self.families[family][value]
        if type_name in traits.get("not", ()) or type_name not in traits.get("only", (type_name,)):
            return False
        opposite = {"warm": "cool", "cool": "warm"}
        for key, other in chosen:
            other_traits = self.families[self.family_of[key]][other]
            if value in other or other in value or frozenset((value, other)) in self.clashes:
                return False
            if any(traits.get(season) and other_traits.get(opposite[season]) for season in opposite):
                return False
        return True

    def plain(self, garment: Garment, rng: random.Random) -> str:
        return rng.choice(self.plain_forms(garment))

    def plain_forms(self, garment: Garment) -> list[str]:
        """Every way to say the attributes and nothing more."""
        labels = self.plain_phrases["labels"]
        pairs = [(labels.get(key, key), value) for key, value in (("类型", garment.type_name), *garment.details)]
        return [
            before + between.join(label + verb + value for label, value in pairs) + after
            for before, verb, between, after in self.plain_phrases["shapes"]
        ]

    def copy(self, garment: Garment, rng: random.Random) -> str:
        """Advertising copy in which every value stands word for word."""
        while True:
            text = CopyWriter(self, garment, rng).write()
            if all(value in text for value in garment.values) and self._reads_well(text):
                return text

    def _reads_well(self, text: str) -> bool:
        """No stutter such as 剪裁剪裁, no adjective used up twice, one colon a sentence."""
        if STUTTER.search(text) or any(sentence.count("：") > 1 for sentence in text.split("。")):
            return False
        return all(text.count(adjective) < 2 for adjective in self.words["气质"])

    def season(self, garment: Garment) -> str | None:
        traits = [self.families[self.family_of[key]][value] for key, value in garment.details]
        return next((season for season in ("warm", "cool") if any(t.get(season) for t in traits)), None)

    def copy_request(self, garment: Garment, rng: random.Random) -> str:
        """A person asking for copy in so many words."""
        weaver = Weaver(self.words, rng)
        if rng.random() < 0.15:
            words = "、".join(value for _, value in garment.details) + "的" + garment.type_name
            return weaver.weave(rng.choice(self.plain_phrases["loose_requests"]), {"w": words})
        return weaver.weave(rng.choice(self.plain_phrases["copy_requests"]), {"c": garment.content})


class CopyWriter:
    """Writes one piece of copy: opening, introduction, details in sentences of one or two, closing."""

    def __init__(self, grammar: Grammar, garment: Garment, rng: random.Random) -> None:
        self.grammar = grammar
        self.garment = garment
        self.rng = rng
        self.weaver = Weaver(grammar.words, rng)
        entry = grammar.types[garment.type_name]
        self.head = self._choose_head()
        noun = rng.choice(entry["noun"])
        self.context = {
            "T": noun,
            "n": self._noun_of(self.head) if self.head else noun,
            "m": entry["measure"],
            "b": entry["body"],
        }

    def write(self) -> str:
        praise_head = self.rng.random() < 0.3
        rest = [pair for pair in self.garment.details if pair != self.head or praise_head]
        self.rng.shuffle(rest)
        modifiers = self._choose_modifiers(rest)
        rest = [pair for pair in rest if pair not in modifiers]
        opened = self.rng.random() < 0.5
        sentences = [self._opening()] if opened else []
        leads = "leads" if opened or self.rng.random() < 0.5 else "first_leads"
        sentences += [self._lead(leads, modifiers, rest), *self._body(rest)]
        if self.rng.random() < 0.4:
            sentences.append(self._from("closings"))
        return "".join(sentences)

    def _choose_head(self) -> tuple[str, str] | None:
        heads = [pair for pair in self.garment.details if self.grammar.family_of[pair[0]] in NOUN_FAMILIES]
        return self.rng.choice(heads) if heads else None

    def _noun_of(self, pair: tuple[str, str]) -> str:
        key, value = pair
        return str(self.grammar.families[self.grammar.family_of[key]][value].get("noun", value))

    def _choose_modifiers(self, rest: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        able = [pair for pair in rest if self.grammar.family_of[pair[0]] in MODIFIER_ORDER]
        chosen: dict[str, tuple[str, str]] = {}
        for pair in able[: self.rng.choice((0, 1, 1, 2))]:
            chosen.setdefault(self.grammar.family_of[pair[0]], pair)
        return [chosen[family] for family in MODIFIER_ORDER if family in chosen]

    def _variables(self, pair: tuple[str, str]) -> dict[str, str]:
        traits = self.grammar.families[self.grammar.family_of[pair[0]]][pair[1]]
        merit, other_merit = self.rng.sample(traits["good"], 2)
        return {
            **self.context,
            "v": pair[1],
            "k": traits.get("noun", pair[1]),
            "g": merit,
            "h": other_merit,
            "i": self.rng.choice(traits.get("img", [""])),
        }

    def _say(self, part: str, pair: tuple[str, str]) -> str:
        template = self.weaver.draw(self.grammar.details[part][self.grammar.family_of[pair[0]]])
        return self.weaver.weave(template, self._variables(pair))

    def _from(self, name: str, extra: Mapping[str, str] | None = None) -> str:
        template = self.weaver.draw(self.grammar.copy_phrases[name])
        return self.weaver.weave(template, {**self.context, **(extra or {})})

    def _opening(self) -> str:
        season = self.grammar.season(self.garment)
        return self._from(f"openings_{season}" if season and self.rng.random() < 0.4 else "openings_any")

    def _lead(self, name: str, modifiers: Sequence[tuple[str, str]], rest: list[tuple[str, str]]) -> str:
        lead = self._from(name, {"a": "".join(self._say("modifiers", pair) for pair in modifiers)})
        claim = self._say("clauses", rest.pop()) if rest else self.weaver.weave("<效果>", self.context)
        return f"{lead}{claim}。"

    def _body(self, rest: Sequence[tuple[str, str]]) -> list[str]:
        rest = list(rest)
        sentences = []
        while rest:
            pair = rest.pop()
            shape = self.rng.random()
            if rest and shape < 0.3:
                things = {"1": self._say("things", pair), "2": self._say("things", rest.pop())}
                sentences.append(self._from("pairs", things) + "。")
            elif rest and shape < 0.55:
                sentences.append(f"{self._say('clauses', pair)}，{self._say('clauses', rest.pop())}。")
            else:
                sentences.append(self._say("clauses", pair) + "。")
        return sentences
