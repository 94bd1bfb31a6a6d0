"""Ids that come one by one become text that is neither torn nor late, on a tokenizer whose emoji are bytes."""

from __future__ import annotations

import random

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
    assert [decoder.push(index) for index in broken] == ["", "\ufffd", "\ufffd", "\ufffd"]
    assert decoder.push(tokenizer.encode_text("色")[-1]) == "\ufffd色"


def test_what_is_incomplete_at_the_end_is_shown_as_broken(tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    assert decoder.push(byte_ids(tokenizer, EMOJI.encode())[0]) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize("broken", [1, 2, 3, 4])
def test_a_good_character_behind_broken_bytes_is_kept(tokenizer, broken: int) -> None:
    ids = byte_ids(tokenizer, EMOJI.encode()[:1] * broken + EMOJI.encode())
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == "\ufffd" * broken + EMOJI


def test_whatever_comes_the_pieces_are_the_text_of_all_ids(tokenizer) -> None:
    """Bytes of broken and whole characters, spaces, special ids and ids of nothing, in any order."""
    draw = random.Random(0)
    spaces = tokenizer.encode_text("  a  b ")
    kinds = [
        byte_ids(tokenizer, bytes(range(256))),
        byte_ids(tokenizer, f"é中{EMOJI}".encode()),
        spaces,
        [-1, 0, 1, 2, tokenizer.num_pieces, 10**6],
        list(range(tokenizer.num_pieces)),
    ]
    for _ in range(2000):
        ids = [index for _ in range(draw.randint(1, 8)) for index in _run_of(draw, draw.choice(kinds))]
        decoder = IncrementalDecoder(tokenizer)
        assert "".join(map(decoder.push, ids)) + decoder.flush() == tokenizer.decode_ids(ids), ids


def _run_of(draw: random.Random, ids: list[int]) -> list[int]:
    start = draw.randrange(len(ids))
    return ids[start : start + draw.randint(1, 4)]
