"""Text to ids and back: the checkpoint's SentencePiece model, the special ids, the ``[Round n]`` prompt.

Knows the original tokenizer's quirks and repeats them. Knows no model and no device.

The five special tokens are appended after the SentencePiece pieces and exist as ids only: a user who types "[gMASK]" or
"</s>" gets ordinary text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import PreTrainedTokenizer

from chatglm2.errors import TokenizerError

TOKENIZER_FILE = "tokenizer.model"
SPECIAL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
# `build_prompt` for transformers' chat messages. ChatGLM2 has no role for a system: its text stands before the first
# question, as in the original's server.
CHAT_TEMPLATE = """
{%- set chat = namespace(round=0, system="") -%}
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {%- set chat.system = chat.system ~ message.content -%}
  {%- elif message.role == "user" -%}
    {%- set chat.round = chat.round + 1 -%}
    {{- "\\n\\n" if chat.round > 1 -}}
    {{- "[Round " ~ chat.round ~ "]\\n\\n问：" ~ (chat.system if chat.round == 1 else "") ~ message.content -}}
  {%- elif message.role == "assistant" -%}
    {{- "\\n\\n答：" ~ message.content -}}
  {%- else -%}
    {{- raise_exception("ChatGLM2 knows the roles system, user and assistant; found " ~ message.role) -}}
  {%- endif -%}
{%- endfor -%}
{{- "\\n\\n答：" if add_generation_prompt -}}
"""

History = Sequence[tuple[str, str]]


class ChatGLMTokenizer(PreTrainedTokenizer):
    """ChatGLM2's tokenizer for transformers, without remote code.

    ``encode(text)`` puts ``[gMASK] sop`` in front and no end token behind, as the original does. Padding is on the
    left, and gives position ids that count text only.
    """

    vocab_files_names = {"vocab_file": TOKENIZER_FILE}  # noqa: RUF012 - the base class declares them so
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012
    padding_side = "left"

    def __init__(self, vocab_file: str | Path, padding_side: str = "left", **kwargs: Any) -> None:
        self.vocab_file = str(vocab_file)
        self.pieces = _load_pieces(self.vocab_file)
        self.num_pieces = self.pieces.get_piece_size()
        self.special_ids = {token: self.num_pieces + index for index, token in enumerate(SPECIAL_TOKENS)}
        self.special_names = {index: token for token, index in self.special_ids.items()}
        for name in ("unk_token", "eos_token", "pad_token", "clean_up_tokenization_spaces", "split_special_tokens"):
            kwargs.pop(name, None)  # fixed by the vocabulary, whatever tokenizer_config.json says
        super().__init__(
            unk_token="<unk>",
            eos_token="</s>",
            pad_token="<unk>",
            padding_side=padding_side,
            clean_up_tokenization_spaces=False,
            split_special_tokens=True,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Pieces and special tokens; the model's embedding has more rows, which stand for nothing."""
        return self.num_pieces + len(SPECIAL_TOKENS)

    def get_vocab(self) -> dict[str, int]:
        return {self.pieces.id_to_piece(index): index for index in range(self.num_pieces)} | self.special_ids

    def get_prefix_tokens(self) -> list[int]:
        """``[gMASK] sop``, which every prompt starts with."""
        return [self.special_ids["[gMASK]"], self.special_ids["sop"]]

    def get_command(self, token: str) -> int:
        """The id of a special token; the original's name for it."""
        return self.special_ids[token]

    def get_chat_template(self, chat_template: str | None = None, tools: list[Any] | None = None) -> str:
        """`build_prompt` as a template, unless another one is given."""
        return chat_template or self.chat_template or CHAT_TEMPLATE

    def apply_chat_template(  # type: ignore[override] # by keyword, as everybody calls it
        self,
        conversation: Any,
        *,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """transformers' own, except that the ids begin with ``[gMASK] sop``, which no text stands for."""
        text: Any = super().apply_chat_template(conversation, tokenize=False, return_dict=False, **options)
        if not tokenize:
            return text
        encoded = self(
            text,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        return encoded if return_dict else encoded["input_ids"]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Nothing: transformers would put a copy of this file beside every checkpoint that it saves."""

    def build_prompt(self, query: str, history: History | None = None) -> str:
        """The chat prompt: ``[Round 1]`` and so on, each round a question and an answer, the last one open."""
        turns = [*(history or ()), (query, "")]
        rounds = [
            f"[Round {number}]\n\n问：{question}\n\n答：{answer}" for number, (question, answer) in enumerate(turns, 1)
        ]
        return "\n\n".join(rounds)

    def encode_text(self, text: str) -> list[int]:
        """Ids of ``text`` alone; what ``encode(text, add_special_tokens=False)`` gives, without its overhead."""
        return list(self.pieces.encode(text))

    def encode_prompt(self, query: str, history: History | None = None) -> list[int]:
        """Ids of the chat prompt with ``[gMASK] sop`` in front, ready for the model."""
        return self.get_prefix_tokens() + self.encode_text(self.build_prompt(query, history))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """``[gMASK] sop a``, or ``[gMASK] sop a b </s>`` for a pair."""
        single = self.get_prefix_tokens() + list(token_ids_0)
        return single if token_ids_1 is None else [*single, *token_ids_1, self.eos_token_id]

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return list(self.pieces.encode_as_pieces(text))

    def _convert_token_to_id(self, token: str) -> int:
        return self.special_ids.get(token, self.pieces.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        if index in self.special_names:
            return self.special_names[index]
        return self.pieces.id_to_piece(index) if 0 <= index < self.num_pieces else ""

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        return self.decode_ids(self._convert_token_to_id(token) for token in tokens)

    def decode_ids(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; ids that stand for no text (special, padding, negative, unused rows) are left out."""
        return str(self.pieces.decode([index for index in ids if 2 < index < self.num_pieces]))

    def byte_of(self, index: int) -> int | None:
        """The byte that an id stands for, of a character that is no piece; None for every other id."""
        if not (0 <= index < self.num_pieces and self.pieces.is_byte(index)):
            return None
        return int(self.pieces.id_to_piece(index)[1:-1], 16)  # <0xE4>

    def _decode(self, token_ids: int | list[int], *args: Any, **kwargs: Any) -> str:
        # By id, not by piece: the base class would turn unknown ids into pieces and back.
        return self.decode_ids([token_ids] if isinstance(token_ids, int) else token_ids)

    def _pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        length = len(encoded_inputs["input_ids"])
        positions = encoded_inputs.pop("position_ids", None) or list(range(length))
        padded: Any = super()._pad(encoded_inputs, *args, **kwargs)
        missing = [0] * (len(padded["input_ids"]) - length)
        padded["position_ids"] = missing + positions if self.padding_side == "left" else positions + missing
        return padded

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy ``tokenizer.model``."""
        target = Path(save_directory) / (f"{filename_prefix}-{TOKENIZER_FILE}" if filename_prefix else TOKENIZER_FILE)
        if not target.exists() or not target.samefile(self.vocab_file):
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


def _load_pieces(vocab_file: str) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=vocab_file)
    except (OSError, RuntimeError) as error:
        raise TokenizerError(
            f"{vocab_file} cannot be read as a SentencePiece model: it is missing or damaged. "
            "Copy tokenizer.model from the checkpoint again.",
            f"无法读取 SentencePiece 模型 {vocab_file}：文件缺失或已损坏。请重新复制检查点里的 tokenizer.model。",
        ) from error
