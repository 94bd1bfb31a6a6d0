"""A run kept to its base: which questions, which rows at which step, and the same prefix after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import half_done_copy, prefix_of
from tiny_checkpoint import tiny_settings

from chatglm2 import load_model, load_tokenizer
from training.cli.parser import AS_THE_ORIGINAL, parse_command
from training.data.encoding import IGNORED_LABEL, EncodedExample, Example
from training.data.instruction import propose_sentence
from training.distributed.ranks import Ranks
from training.keep.questions import BaseAnswer, gather_questions
from training.keep.rows import KeptRow, KeptRows, encode_answers, with_base_hidden
from training.loop.passes import split
from training.runs.layout import BASE_ANSWERS_FILE
from training.runs.store import RUN_FILE, RunStore
from training.settings.keep_recipe import KeepRecipe, recipe_for
from training.settings.train import TrainingSettings
from training.worker.alone import train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    directory = tmp_path_factory.mktemp("keep")
    questions = directory / "questions.jsonl"
    rows = [{"prompt": f"{n}+1等于几？"} for n in range(20)] + [{"prompt": "你是谁？"}]
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return tiny_settings(
        directory,
        max_steps=4,
        per_device_train_batch_size=4,
        prefix_init="text",
        keep=0.5,
        keep_file=str(questions),
        keep_own=4,
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


@pytest.mark.parametrize(
    "changes", [{}, {"prefix_projection": True}, {"gradient_accumulation_steps": 2, "quantization_bit": 4}]
)
def test_a_resumed_run_trains_the_same_prefix_bit_for_bit(
    store: RunStore, settings: TrainingSettings, changes: dict[str, Any]
) -> None:
    straight = store.create(replace(settings, **changes), "straight")
    assert train(straight).kind == "finished"
    resumed = half_done_copy(store, straight, kept_step=2)
    train(resumed)
    for name, tensor in prefix_of(straight, 4).items():
        assert tensor.equal(prefix_of(resumed, 4)[name])


def test_keeping_draws_the_prefix_towards_the_base(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(settings, max_steps=12, save_steps=12)
    runs = [store.create(replace(asked, keep=keep), f"keep-{keep}") for keep in (0.0, 1.0)]
    for run in runs:
        train(run)
    loose, kept = (prefix_of(run, 12)["transformer.prefix_encoder.embedding.weight"] for run in runs)
    assert not loose.equal(kept)
    assert (runs[1].path / BASE_ANSWERS_FILE).is_file() and not (runs[0].path / BASE_ANSWERS_FILE).is_file()


def test_questions_that_are_watched_are_not_trained_on(settings: TrainingSettings) -> None:
    model, tokenizer = load_model(settings.model_name_or_path), load_tokenizer(settings.model_name_or_path)
    asked = gather_questions(model, tokenizer, settings, 100, avoided=["你是 谁？", "3+1等于几？"])
    assert "你是谁？" not in asked and "3+1等于几？" not in asked and "4+1等于几？" in asked
    assert len(asked) == len(set(asked))
    assert len(gather_questions(model, tokenizer, settings, 5)) == 5


def rows_of(count: int) -> list[KeptRow]:
    """Rows of unlike lengths, each with one label more than the one before."""
    rows = []
    for index in range(count):
        said = list(range(1, index + 2))
        rows.append(
            KeptRow(EncodedExample([9, 9, *said], [-100, -100, *said]), torch.full((index + 1, 2), float(index)))
        )
    return rows


def test_processes_share_the_rows_that_one_would_take() -> None:
    recipe = KeepRecipe(weight=3.0, rows=5)
    alone = KeptRows(rows_of(7), recipe, seed=1, pad_id=0).at(3)
    labels = (alone["labels"] != IGNORED_LABEL).sum(1)
    assert (alone["loss_weights"] * labels).sum().item() == pytest.approx(3.0)
    parts = [KeptRows(rows_of(7), recipe, 1, 0, Ranks(rank=rank, size=2)).at(3) for rank in range(2)]
    assert [len(part["labels"]) for part in parts] == [3, 3], "each takes as many, for they wait for each other"
    total = sum((part["loss_weights"] * (part["labels"] != IGNORED_LABEL).sum(1)).sum().item() for part in parts)
    assert total / 2 == pytest.approx(3.0)


def test_a_steps_rows_come_from_seed_and_step_alone() -> None:
    dealt = [KeptRows(rows_of(7), KeepRecipe(1.0, rows=3), seed=5, pad_id=0) for _ in range(2)]
    dealt[0].at(0), dealt[0].at(1)
    assert dealt[0].at(2)["input_ids"].equal(dealt[1].at(2)["input_ids"])
    seen = torch.cat([(dealt[1].at(step)["labels"] != IGNORED_LABEL).sum(1) for step in range(7)])
    assert sorted(seen.tolist()) == sorted([*range(1, 8)] * 3), "all are used equally often"


def test_the_bases_hidden_states_lie_where_it_says_the_answer(settings: TrainingSettings) -> None:
    model, tokenizer = load_model(settings.model_name_or_path), load_tokenizer(settings.model_name_or_path)
    examples = encode_answers([BaseAnswer("你好", "hello"), BaseAnswer("你", "你好 你好", is_cut=True)], tokenizer)
    assert [example.input_ids[-1] == tokenizer.eos_token_id for example in examples] == [True, False]
    rows = with_base_hidden(examples, model.eval(), int(tokenizer.pad_token_id))
    batch = KeptRows(rows, KeepRecipe(1.0, rows=2), 0, int(tokenizer.pad_token_id)).at(0)
    loss = model(**batch).loss
    assert abs(loss.item()) < 1e-6, "without a prefix the model is its base"


def test_a_part_of_a_pass_keeps_what_its_rows_count() -> None:
    rows = KeptRows(rows_of(4), KeepRecipe(1.0, rows=4), 0, 0).at(0)
    parts = split(rows, 3, lambda labels: pytest.fail("the rows say it themselves"))
    assert torch.cat([part["loss_weights"] for part in parts]).equal(rows["loss_weights"])


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ("", 100),
        ("--keep 0", 100),
        ("--keep 0.75", 170),
        ("--keep 1", 240),
        ("--keep 1 --max_steps 60", 60),
        ("--keep 1 --preset adgen", 3000),
        ("--keep 1 --num_train_epochs 2", -1),
        ("--keep 1 --compat original", -1),
        ("--preset gentle", 240),
        ("--pre_seq_len none", 100),
    ],
)
def test_most_is_kept_over_more_steps_unless_somebody_says_how_many(words: str, steps: int) -> None:
    assert parse_command(words.split()).settings().max_steps == steps


def test_half_kept_counts_three_times_and_all_ten_times() -> None:
    assert recipe_for(0.0) is None
    half, most = recipe_for(0.5), recipe_for(1.0)
    assert half is not None and most is not None
    assert (round(half.weight), half.rows) == (3, 8)
    assert (most.weight, most.rows) == (10.0, 32)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [(f"类型#上衣*颜色#{c}", f"这件{c}色上衣很好看") for c in "红白黑蓝"],
            "请根据下面的商品属性写一段吸引人的广告文案。",
        ),
        ([(f"把这句话翻译成英文：第{n}句", f"No {n}.") for n in range(4)], "把这句话翻译成英文："),
        ([(f"今天第{n}次下雨了", f"It rains, time {n}.") for n in range(4)], "Translate the text below into English."),
        (
            [(f"{n}号商品怎么样", "差评" if n % 3 else "好评") for n in range(9)],
            "请判断下面的内容属于哪一类，只回答类别：差评、好评。",
        ),
    ],
)
def test_a_sentence_is_proposed_from_the_rows(rows: list[tuple[str, str]], sentence: str) -> None:
    assert propose_sentence([Example(prompt, response) for prompt, response in rows]) == sentence


def test_the_originals_command_line_starts_as_the_original() -> None:
    command = parse_command(["--do_train", "--pre_seq_len", "128"])
    settings = command.settings()
    assert (settings.prefix_init, settings.keep) == ("random", 0.0) and AS_THE_ORIGINAL in command.notes
    own = parse_command(["--do_train", "--pre_seq_len", "128", "--keep", "0.5"]).settings()
    assert (own.prefix_init, own.keep) == ("random", 0.5)
    assert (TrainingSettings().prefix_init, TrainingSettings().keep) == ("text", 0.5)


def test_a_run_from_before_there_was_a_choice_goes_on_as_it_began(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(settings, "old")
    content = json.loads((run.path / RUN_FILE).read_text(encoding="utf-8"))
    del content["settings"]["keep"], content["settings"]["prefix_init"]
    (run.path / RUN_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert (run.settings().keep, run.settings().prefix_init) == (0.0, "random")
