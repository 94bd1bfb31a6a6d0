"""Ids, prompts and text equal the original tokenizer's, on the golden model's vocabulary and on ChatGLM2-6B's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chatglm2
from chatglm2 import ChatGLMTokenizer, IncrementalDecoder


@pytest.fixture(scope="session")
def real(shared: Path) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(shared / "chatglm2-6b")


@pytest.fixture(scope="session")
def sample(shared: Path) -> dict[str, str]:
    """The first advertising row: the sample that the original's README shows."""
    with (shared / "data" / "adgen" / "train.json").open(encoding="utf-8") as lines:
        return json.loads(next(lines))


def test_ids_and_text_equal_the_original(vectors, tokenizer) -> None:
    for case in vectors["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids_no_special"]
        assert tokenizer.encode_text(case["text"]) == case["ids_no_special"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_prompts_equal_the_original(vectors, tokenizer) -> None:
    for case in vectors["prompt"]:
        assert tokenizer.build_prompt(case["query"], case["history"]) == case["text"]


def test_special_ids(vectors, tokenizer) -> None:
    special = vectors["special"]
    assert tokenizer.vocab_size == len(tokenizer) == special["vocab_size"]
    assert tokenizer.pad_token_id == special["pad"]
    assert tokenizer.eos_token_id == special["eos"]
    assert tokenizer.get_prefix_tokens() == special["prefix"]
    assert all(tokenizer.special_ids[name] == special[name] for name in ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"))


def test_real_vocabulary(real) -> None:
    assert len(real) == 64794
    assert real.encode("你好") == [64790, 64792, 36474, 54591]
    prompt = [790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13, 13, 55437, 31211]
    assert real.encode(real.build_prompt("你好")) == [64790, 64792, *prompt]
    assert real.encode_prompt("你好") == [64790, 64792, *prompt]
    assert real.encode_text("1234") == [30910, 30939, 30943, 30966, 30972]
    assert real.encode_text("hello") == [24954]
    assert real.encode_text(" hello") == [265, 15616, 30914]
    assert real.encode_text("") == []
    assert real.encode_text(" ") == [265]
    assert real.encode_text("\n") == [30910, 13]


def test_special_strings_in_text_stay_text(real) -> None:
    assert real.encode_text("</s>") == [2893, 30917, 30994]
    ids = real.encode_text("[gMASK]")
    assert len(ids) == 6
    assert real.decode(ids) == "[gMASK]"


def test_decoding_leaves_out_what_is_no_text(real) -> None:
    assert real.decode([64790, 64792, 36474, 54591, 2, 0, 0, -100]) == "你好"
    assert real.decode([5]) == "\x02"
    assert real.decode([36474, 64999, 54591]) == "你好"


def test_pair_ends_with_the_end_token(real) -> None:
    assert real("你好", "你好")["input_ids"] == [64790, 64792, 36474, 54591, 36474, 54591, 2]


def test_batch_is_padded_on_the_left_with_positions_of_text(real, sample) -> None:
    batch = real([real.build_prompt(sample["content"]), real.build_prompt("你好")], padding=True)
    assert len(batch["input_ids"][0]) == 48
    assert batch["input_ids"][0][-5:] == [55995, 13, 13, 55437, 31211]
    assert batch["input_ids"][1][:31] == [0] * 31
    assert batch["attention_mask"][1] == [0] * 31 + [1] * 17
    assert batch["position_ids"][1] == [0] * 31 + list(range(17))


@pytest.mark.parametrize(
    "text",
    [
        "表情👋🏽与，标点。",
        "hello world  two",
        " leading space",
        "𠮷野家…——“引号”",
        "代码 `x = 1`\n\n```python\nprint(1)\n```",
        "👨‍👩‍👧‍👦 family",
    ],
)
def test_streamed_text_is_whole_and_never_torn(real, text: str) -> None:
    decoder = IncrementalDecoder(real)
    parts = [decoder.push(token) for token in real.encode_text(text)]
    assert "".join([*parts, decoder.flush()]) == text
    assert not any("\ufffd" in part for part in parts)


def test_punctuation_is_not_late(real) -> None:
    decoder = IncrementalDecoder(real)
    ids = real.encode_text("好，对！")
    shown = ""
    for count, token in enumerate(ids, 1):
        shown += decoder.push(token)
        assert shown == real.decode(ids[:count])


def test_broken_bytes_end_as_replacement_characters(real) -> None:
    decoder = IncrementalDecoder(real)
    first_byte_of_emoji = real.encode_text("👋")[-4]
    assert decoder.push(first_byte_of_emoji) == ""
    assert decoder.flush() == "\ufffd"
