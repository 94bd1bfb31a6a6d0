"""Answers are those of ``generate()``, whoever shares the batch; scores, files and reports say what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import build_prefix
from tiny_checkpoint import CONFIG, tiny_settings

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from training.answering import Answer, answer_examples, reference_text
from training.arguments import TrainingSettings
from training.data import Example, ExampleEncoder
from training.evaluation import mean_loss, score_rows, score_sample

EXAMPLES = [
    Example("类型#上衣*颜色#红色", "这件红色上衣很百搭。"),
    Example("你好", "你好"),
    Example("类型#裤", "黑色裤。", (("你好", "你好"),)),
    Example("hello", "world 01"),
    Example("颜色#蓝", "蓝绿裙。"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(
        tmp_path_factory.mktemp("evaluation"), max_source_length=64, max_target_length=8, do_sample=False
    )


@pytest.fixture(scope="module")
def model(settings: TrainingSettings) -> ChatGLMForConditionalGeneration:
    model = chatglm2.load_model(settings.model_name_or_path)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for the answers to differ from token to token
            if parameter.dim() == 2:
                parameter.mul_(20)
    return model


@pytest.fixture(scope="module")
def tokenizer(settings: TrainingSettings) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(settings.model_name_or_path)


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return build_prefix(3, **{key: CONFIG[key] for key in ("num_layers", "multi_query_group_num", "kv_channels")})


@pytest.fixture
def answers(model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings) -> Any:
    """Answers in the order of the examples, with changed settings."""

    def answers(prefixes: Sequence[Prefix | None] = (None,), **changes: Any) -> list[list[Answer]]:
        found = dict(answer_examples(model, tokenizer, EXAMPLES, replace(settings, **changes), prefixes))
        return [found[index] for index in range(len(EXAMPLES))]

    return answers


def generated(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    settings: TrainingSettings,
    example: Example,
    prefix: Prefix | None,
    **options: Any,
) -> str:
    """The oracle: transformers' own generation of one row, with the original's budget."""
    ids = torch.tensor([ExampleEncoder(tokenizer, settings).encode_prompt(example)])
    budget = settings.max_source_length + settings.max_target_length + 1
    output: Any = model.generate(ids, prefix=prefix, max_length=budget, do_sample=False, **options)
    return tokenizer.decode_ids(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("beams", [1, 3])
def test_greedy_and_beam_answers_are_those_of_generate(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    settings: TrainingSettings,
    prefix: Prefix,
    answers: Any,
    beams: int,
) -> None:
    found = answers((prefix, None), num_beams=beams)
    assert len({answer.text for pair in found for answer in pair}) > len(EXAMPLES)
    for example, (tuned, base) in zip(EXAMPLES, found, strict=True):
        assert tuned.text == generated(model, tokenizer, settings, example, prefix, num_beams=beams)
        assert base.text == generated(model, tokenizer, settings, example, None, num_beams=beams)


@pytest.mark.parametrize("changes", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_an_answer_does_not_depend_on_who_shares_its_batch(
    answers: Any, prefix: Prefix, changes: dict[str, Any]
) -> None:
    one, many = (answers((prefix, None), per_device_eval_batch_size=size, **changes) for size in (1, 4))
    assert one == many


def test_a_seed_repeats_sampled_answers_and_another_one_changes_them(answers: Any) -> None:
    first, again, other = (answers(do_sample=True, seed=seed) for seed in (1, 1, 200))
    assert first == again != other


def test_an_answer_ends_where_prompt_and_answer_reach_the_originals_budget(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    never_ends = replace(settings, max_source_length=32, max_target_length=4)
    eos, model.config.eos_token_id = model.config.eos_token_id, None
    try:
        ((_, (answer,)),) = answer_examples(model, tokenizer, EXAMPLES[1:2], never_ends)
    finally:
        model.config.eos_token_id = eos
    assert answer.is_cut


def test_the_base_answers_while_the_model_trains_a_prefix_of_its_own(
    settings: TrainingSettings, tokenizer: ChatGLMTokenizer, answers: Any, model: ChatGLMForConditionalGeneration
) -> None:
    expected = answers(num_beams=2), answers()
    losses = mean_loss(model, tokenizer, EXAMPLES, settings)
    encoder = model.prepare_prefix_tuning(4)
    model.train()
    try:
        assert (answers(num_beams=2), answers()) == expected
        assert mean_loss(model, tokenizer, EXAMPLES, settings) == losses
        assert model.training
    finally:
        model.eval()
        del encoder
        model.transformer.prefix_encoder = None


def test_references_are_cut_as_the_original_cuts_labels(
    tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    example = Example("你好", "这件红色上衣很百搭，" * 8)
    ids = tokenizer.encode(example.response, truncation=True, max_length=10)  # [gMASK] and sop counted
    assert reference_text(tokenizer, example, replace(settings, val_max_target_length=10)) == tokenizer.decode(ids)
    assert len(ids) == 10


def test_the_loss_is_the_mean_over_tokens_whatever_the_batch(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings, prefix: Prefix
) -> None:
    encoder = ExampleEncoder(tokenizer, settings)
    sums, counts = 0.0, 0
    for example in EXAMPLES:
        row = encoder.encode(example)
        labels = torch.tensor([row.labels])
        count = int((labels != -100).sum())
        with torch.no_grad():
            loss = model(torch.tensor([row.input_ids]), labels=labels, prefix=prefix).loss
        sums, counts = sums + float(loss) * count, counts + count
    for size in (1, 2, 5):
        asked = replace(settings, per_device_eval_batch_size=size)
        assert mean_loss(model, tokenizer, EXAMPLES, asked, prefix) == pytest.approx(sums / counts, rel=1e-5)


def test_rows_are_scored_and_a_sample_has_their_means(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings, prefix: Prefix
) -> None:
    rows = list(score_rows(model, tokenizer, EXAMPLES, settings, (prefix, None)))
    assert [row.index for row in rows] == list(range(len(EXAMPLES)))
    assert all(len(row.answers) == 2 for row in rows)
    scores = score_sample(model, tokenizer, EXAMPLES, settings, prefix)
    assert scores.rouge_l == pytest.approx(sum(row.answers[0].scores.rouge_l for row in rows) / len(rows))
