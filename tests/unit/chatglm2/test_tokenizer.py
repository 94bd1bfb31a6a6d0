"""The tokenizer as transformers' users know it; what its ids are is compared with the original in tests/golden."""

from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from tiny_checkpoint import write_tiny_checkpoint
from transformers import pipeline

import chatglm2

MESSAGES = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "好"},
    {"role": "user", "content": "红色上衣"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> chatglm2.ChatGLMTokenizer:
    return chatglm2.load_tokenizer(write_tiny_checkpoint(tmp_path_factory.mktemp("model")))


def test_chat_messages_become_the_rounds_of_the_original(tokenizer: chatglm2.ChatGLMTokenizer) -> None:
    history = [("你好", "好")]
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.build_prompt("红色上衣", history)
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.encode_prompt("红色上衣", history)  # with [gMASK] sop


def test_a_systems_text_stands_before_the_first_question(tokenizer: chatglm2.ChatGLMTokenizer) -> None:
    messages = [{"role": "system", "content": "简短。"}, *MESSAGES]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.build_prompt("红色上衣", [("简短。你好", "好")])


def test_an_unknown_role_is_named(tokenizer: chatglm2.ChatGLMTokenizer) -> None:
    with pytest.raises(TemplateError, match="found tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}], tokenize=False)


def test_a_chat_pipeline_answers(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path)
    model, tokenizer = chatglm2.load_model(checkpoint, device="cpu"), chatglm2.load_tokenizer(checkpoint)
    chat = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (answer,) = chat(MESSAGES, max_new_tokens=3, do_sample=False)
    assert answer["generated_text"][:-1] == MESSAGES
    assert answer["generated_text"][-1]["role"] == "assistant"


@pytest.mark.parametrize("token", ["[gMASK]", "sop", "eop"])
def test_special_ids_have_the_originals_name(tokenizer: chatglm2.ChatGLMTokenizer, token: str) -> None:
    assert tokenizer.get_command(token) == tokenizer.special_ids[token]
