"""A conversation becomes the original's prompt, cut to what fits; a reply is cleaned as the original does."""

from __future__ import annotations

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from chatglm2 import ChatGLMTokenizer
from chatglm2.errors import PromptError
from chatglm2.text.prompt import clean_reply, fit_prompt


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(write_tiny_checkpoint(tmp_path_factory.mktemp("model")))


def test_the_prompt_is_the_originals(tokenizer) -> None:
    assert tokenizer.build_prompt("你好") == "[Round 1]\n\n问：你好\n\n答："
    history = [("红色", "好"), ("蓝色", "也好")]
    assert tokenizer.build_prompt("白色", history) == (
        "[Round 1]\n\n问：红色\n\n答：好\n\n[Round 2]\n\n问：蓝色\n\n答：也好\n\n[Round 3]\n\n问：白色\n\n答："
    )


def test_a_short_history_is_kept_whole(tokenizer) -> None:
    history = [("红色", "蓝色")]
    fitted = fit_prompt(tokenizer, "你好", history, max_length=256, max_new_tokens=16)
    assert fitted == (tokenizer.encode_prompt("你好", history), 0)


@pytest.mark.parametrize("max_new_tokens", [1, 30, 5000])
def test_the_newest_rounds_that_fit_are_kept_and_no_fewer(tokenizer, max_new_tokens: int) -> None:
    history = [(f"红色{number}", "这件外套很百搭") for number in range(20)]
    limits = {"max_length": 120, "max_new_tokens": max_new_tokens}
    ids, dropped = fit_prompt(tokenizer, "你好", history, **limits)
    room = 120 - min(max_new_tokens, 60)
    assert ids == tokenizer.encode_prompt("你好", history[dropped:])
    assert len(ids) <= room < len(tokenizer.encode_prompt("你好", history[dropped - 1 :]))


@pytest.mark.parametrize("query", ["", " \n", "红" * (16 * 120 + 1)], ids=["empty", "blank", "long"])
def test_a_question_that_can_never_be_answered_is_refused_at_once(tokenizer, query: str) -> None:
    with pytest.raises(PromptError) as caught:
        fit_prompt(tokenizer, query, [], max_length=120, max_new_tokens=16)
    assert caught.value.localized("zh") != str(caught.value)


def test_replies_are_cleaned_as_the_original_does() -> None:
    assert clean_reply("\n 训练于[[训练时间]]。 ") == "训练于2023年。"
