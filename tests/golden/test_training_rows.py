"""Rows become the ids and labels that the original makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm2 import ChatGLMTokenizer, load_tokenizer
from training.data.batching import PaddingCollator
from training.data.encoding import Example, ExampleEncoder
from training.settings.train import TrainingSettings

README_EXAMPLE = Example(
    "类型#上衣*材质#牛仔布*颜色#白色*风格#简约*图案#刺绣*衣样式#外套*衣款式#破洞",
    "简约而不简单的牛仔外套,白色的衣身十分百搭。",
)


def encoder(tokenizer: ChatGLMTokenizer, source: int, target: int) -> ExampleEncoder:
    settings = TrainingSettings(max_source_length=source, max_target_length=target, truncation="original")
    return ExampleEncoder(tokenizer, settings)


@pytest.fixture(scope="module")
def real_tokenizer(shared: Path) -> ChatGLMTokenizer:
    return load_tokenizer(shared / "chatglm2-6b")


def test_ids_and_labels_equal_the_originals_at_its_fixed_length(golden: Path, tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    rows = json.loads((golden / "vectors.json").read_text(encoding="utf-8"))["train_rows"]
    assert rows
    for row in rows:
        source, target = row["max_source_length"], row["max_target_length"]
        encoded = encoder(tokenizer, source, target).encode(Example(row["content"], row["summary"]))
        collate = PaddingCollator(tokenizer.pad_token_id, label_padding=-100, pad_to_length=source + target + 1)
        batch = collate([encoded])
        assert batch["input_ids"].tolist() == [row["input_ids"]]
        assert batch["labels"].tolist() == [row["labels"]]


def test_the_readmes_row_has_the_originals_ids(real_tokenizer: ChatGLMTokenizer) -> None:
    encoded = encoder(real_tokenizer, 64, 128).encode(README_EXAMPLE)
    prompt, answer = encoded.input_ids[:48], encoded.input_ids[48:]
    assert prompt[-6:] == [55251, 55995, 13, 13, 55437, 31211]
    assert answer == [
        *(30910, 40512, 33311, 34746, 38683, 42373, 30932, 42087, 55500, 54715, 32177, 54999, 55583, 31155),
        real_tokenizer.eos_token_id,
    ]
    assert encoded.labels == [-100] * 48 + answer


def test_the_originals_truncation_loses_the_answer_cue(real_tokenizer: ChatGLMTokenizer) -> None:
    encoded = encoder(real_tokenizer, 20, 8).encode(README_EXAMPLE)
    assert encoded.input_ids[16:20] == [38317, 31010, 38683, 54901]
    assert len(encoded.input_ids) == 20 + 8 + 1
