"""The demo corpus is rich, honest with its attributes, reproducible, and made of nothing but this project's phrases."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from chatglm2 import load_model, load_tokenizer
from tools.demo_model.__main__ import GENERAL_SEED, TRAIN_SEED
from tools.demo_model.corpus import Corpus
from tools.demo_model.grammar import Garment, Grammar
from tools.demo_model.phrasebook import Weaver, parse
from tools.demo_model.reuse import phrases_of, share_of_repeating_groups


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def grammar(corpus: Corpus) -> Grammar:
    return corpus.grammar


@pytest.fixture(scope="module")
def copies(grammar: Grammar) -> list[tuple[Garment, str]]:
    rng = random.Random(11)
    garments = [grammar.sample_garment(rng) for _ in range(1500)]
    return [(garment, grammar.copy(garment, rng)) for garment in garments]


@pytest.fixture(scope="module")
def train_rows(repository: Path) -> list[dict[str, str]]:
    lines = (repository / "assets" / "data" / "train.json").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_copy_names_every_attribute_word_for_word(copies: list[tuple[Garment, str]]) -> None:
    assert all(value in copy for garment, copy in copies for value in garment.values)


def test_plain_descriptions_name_every_attribute(grammar: Grammar) -> None:
    rng = random.Random(3)
    for _ in range(300):
        garment = grammar.sample_garment(rng)
        text = grammar.plain(garment, rng)
        assert all(value in text for value in garment.values)


def test_a_reader_of_five_texts_seldom_meets_a_phrase_twice(copies: list[tuple[Garment, str]]) -> None:
    phrases = [phrases_of(copy, garment.values) for garment, copy in copies]
    assert share_of_repeating_groups(phrases, size=5, groups=2000, rng=random.Random(0)) < 0.12


def test_there_are_thousands_of_distinct_phrases(copies: list[tuple[Garment, str]]) -> None:
    assert len(set[str]().union(*(phrases_of(copy, garment.values) for garment, copy in copies))) > 10_000


def test_attributes_of_a_garment_get_along(grammar: Grammar) -> None:
    rng = random.Random(5)
    for _ in range(500):
        garment = grammar.sample_garment(rng)
        values = [value for _, value in garment.details]
        traits = [grammar.families[grammar.family_of[key]][value] for key, value in garment.details]
        assert not any(frozenset((a, b)) in grammar.clashes for a in values for b in values if a != b)
        assert not (any(t.get("warm") for t in traits) and any(t.get("cool") for t in traits))


def test_the_corpus_holds_every_kind_of_row_in_its_share(corpus: Corpus) -> None:
    rows = [row for row in corpus.rows(1, 2000) if not row.history]
    bare = sum(row.question.startswith("类型#") and "\n" not in row.question for row in rows) / len(rows)
    asked = sum("类型#" in row.question and not row.question.startswith("类型#") for row in rows) / len(rows)
    assert 0.4 < bare < 0.52
    assert 0.2 < asked < 0.36


def test_the_same_seed_writes_the_same_rows(corpus: Corpus) -> None:
    assert list(corpus.rows(9, 50)) == list(Corpus().rows(9, 50))


def test_sample_data_is_never_trained_on(corpus: Corpus, train_rows: list[dict[str, str]]) -> None:
    held_out = {row["content"] for row in train_rows}
    for row in corpus.rows(2, 3000):
        for question in (row.question, *(asked for asked, _ in row.history)):
            assert held_out.isdisjoint(re.findall(r"类型#\S+", question))


def test_sample_data_is_what_the_tool_writes(corpus: Corpus, train_rows: list[dict[str, str]]) -> None:
    assert corpus.sample_rows(TRAIN_SEED, 20) == train_rows[:20]


def test_general_rows_are_what_the_tool_writes_each_question_once(corpus: Corpus, repository: Path) -> None:
    lines = (repository / "assets" / "data" / "general.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert corpus.general_rows(GENERAL_SEED, 20) == rows[:20]
    assert len({row["prompt"] for row in rows}) == len(rows) == 1000


def test_sample_data_is_held_out_and_names_its_attributes(train_rows: list[dict[str, str]]) -> None:
    assert len({row["content"] for row in train_rows}) == len(train_rows) == 2000
    for row in train_rows:
        garment = Garment.parse(row["content"])
        assert garment.is_held_out
        assert all(value in row["summary"] for value in garment.values)


def test_no_clause_of_the_sample_data_comes_from_adgen(shared: Path, train_rows: list[dict[str, str]]) -> None:
    lines = (shared / "data" / "adgen" / "train.json").read_text(encoding="utf-8").splitlines()
    theirs = {clause for line in lines for clause in re.split(r"[，。！？；、,.!?]", json.loads(line)["summary"])}
    ours = {clause for row in train_rows for clause in re.split(r"[，。？：]", row["summary"])}
    assert not {clause for clause in ours & theirs if len(clause) > 6}


def test_weaving_never_draws_an_item_twice_while_others_are_left() -> None:
    weaver = Weaver({"数": ["一", "二", "三"]}, random.Random(0))
    assert sorted(weaver.weave("<数><数><数>")) == sorted("一二三")


def test_an_open_brace_in_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        parse("{一|二")


def test_the_vocabulary_reads_back_all_that_the_corpus_writes(corpus: Corpus, demo_model_dir: Path) -> None:
    tokenizer = load_tokenizer(demo_model_dir)
    assert [tokenizer.pieces.id_to_piece(index) for index in (0, 1, 2, 3, 258)] == [
        "<unk>",
        "<s>",
        "</s>",
        "<0x00>",
        "<0xFF>",
    ]
    for row in corpus.rows(4, 300):
        assert tokenizer.decode_ids(tokenizer.encode_text(row.answer)) == row.answer


def test_the_demo_model_is_small_and_describes_bare_attributes_plainly(demo_model_dir: Path) -> None:
    model, tokenizer = load_model(demo_model_dir, device="cpu"), load_tokenizer(demo_model_dir)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 16_000_000
    assert sum(file.stat().st_size for file in demo_model_dir.iterdir()) <= 40_000_000
    reply, _ = model.chat(tokenizer, "类型#上衣*材质#牛仔布*颜色#白色*衣样式#外套", do_sample=False)
    assert all(value in reply for value in ("上衣", "牛仔布", "白色", "外套"))
    assert len(reply) < 45
