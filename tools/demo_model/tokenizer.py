"""The demo model's SentencePiece vocabulary, in the original's manner.

Ids 0 to 2 are ``<unk>``, ``<s>``, ``</s>``, the next 256 are bytes; special tokens are not in the file, the tokenizer
class appends them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from chatglm2.text.tokenizer import TOKENIZER_FILE
from tools.demo_model.corpus import Row

TOKENIZER_CONFIG = {
    "name_or_path": "chatglm2-demo",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}


def train_tokenizer(rows: Iterable[Row], directory: Path, vocab_size: int) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(rows),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        max_sentencepiece_length=6,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=2,
        minloglevel=1,
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TOKENIZER_FILE).write_bytes(model.getvalue())
    config = json.dumps(TOKENIZER_CONFIG, indent=2)
    (directory / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        for text in (*(part for turn in row.history for part in turn), row.question, row.answer):
            yield from filter(None, text.split("\n"))
        yield "[Round 1]"
        yield "问："
        yield "答："
