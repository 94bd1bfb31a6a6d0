"""Ids that come one by one become text that is neither torn nor late, on a tokenizer whose emoji are bytes."""

from __future__ import annotations

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2
from chatglm2 import ChatGLMTokenizer, IncrementalDecoder

EMOJI = "👋"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(write_tiny_checkpoint(tmp_path_factory.mktemp("model")))


def byte_ids(tokenizer: ChatGLMTokenizer, content: bytes) -> list[int]:
    return [tokenizer.pieces.piece_to_id(f"<0x{byte:02X}>") for byte in content]


def test_a_character_of_four_bytes_is_held_back_until_it_is_whole(tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    decoder.push(tokenizer.encode_text("红")[-1])
    assert [decoder.push(index) for index in byte_ids(tokenizer, EMOJI.encode())] == ["", "", "", EMOJI]


def test_more_bytes_than_a_character_has_are_shown_as_broken_at_once(tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    decoder.push(tokenizer.encode_text("红")[-1])
    broken = byte_ids(tokenizer, EMOJI.encode()[:1] * 4)
    assert [decoder.push(index) for index in broken] == ["", "", "", "\ufffd" * 4]
    assert decoder.push(tokenizer.encode_text("色")[-1]) == "色"


def test_what_is_incomplete_at_the_end_is_shown_as_broken(tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    assert decoder.push(byte_ids(tokenizer, EMOJI.encode())[0]) == ""
    assert decoder.flush() == "\ufffd"
