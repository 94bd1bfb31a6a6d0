"""A conversation in a terminal, as the original's ``cli_demo.py``: ``python -m training.cli.chat --prefix CHECKPOINT``.

Knows flags, what a person types and how answers are shown. What a conversation is, is `chatglm2.serving.chat`'s.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm2.errors import ChatGLMError, PromptError, RunError
from training.cli.flag_parser import FlagParser
from training.cli.screen import Lines, ends_with_its_reader
from training.cli.train import USER_ERROR, system_language
from training.runs.checkpoints import note_on_angles, read_checkpoint, require_prefix_length
from training.settings.samples import DEMO_MODEL

if TYPE_CHECKING:
    from chatglm2.model.prefix import Prefix
    from chatglm2.serving.chat import ChatSession, ReplyStream

Say = Callable[[str, str], str]
# The original's words, which end and clear in either language.
STOP, CLEAR, HISTORY = ("stop", "exit", "quit"), ("clear",), ("history",)


def build_parser(say: Say) -> argparse.ArgumentParser:
    """A parser whose help is in one language."""
    parser = FlagParser(
        prog="./launch.sh chat",
        description=say(
            "Chat in the terminal. Words with a meaning of their own: clear, history, stop.",
            "在终端中对话。有特殊含义的输入：clear（清空）、history（查看历史）、stop（结束）。",
        ),
        allow_abbrev=False,
    )
    model, hub = (
        say("model directory or hub id [the demo model]", "模型目录或 Hub 名称 [演示模型]"),
        ("huggingface", "modelscope"),
    )
    parser.add_argument("--model_name_or_path", "--model", default=str(DEMO_MODEL), metavar="DIR", help=model)
    prefix = say("answer with this prefix checkpoint", "使用该前缀检查点回答")
    parser.add_argument("--ptuning_checkpoint", "--prefix", type=Path, metavar="DIR", help=prefix)
    length = say("checked against the checkpoint, which says its length itself", "与检查点核对；长度由检查点决定")
    parser.add_argument("--pre_seq_len", type=int, metavar="N", help=length)
    compare = say("also let the untuned model answer, side by side", "同时显示未微调模型的回答")
    parser.add_argument("--compare", action="store_true", help=compare)
    parser.add_argument("--quantization_bit", type=int, choices=(4, 8), help=say("4 or 8", "4 或 8"))
    parser.add_argument(
        "--device", help=say("cpu, cuda, cuda:1, … [a GPU if there is one]", "cpu、cuda、cuda:1 等 [有 GPU 则用 GPU]")
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=say("of the weights", "权重精度"))
    angles = say("of rotary angles; reference is the original's", "旋转角精度；reference 与原版一致")
    parser.add_argument("--rope_precision", choices=("fp32", "reference"), help=angles)
    parser.add_argument(
        "--hub", choices=hub, default=hub[0], help=say("where a hub id is looked up", "从哪里查找 Hub 名称")
    )
    parser.add_argument(
        "--max_length",
        type=int,
        default=8192,
        help=say("tokens of prompt and answer [8192]", "提示与回答的总 token 数 [8192]"),
    )
    parser.add_argument("--top_p", type=float, default=0.8, help="[0.8]")
    parser.add_argument("--temperature", type=float, default=0.8, help=say("0 is greedy [0.8]", "0 为贪心 [0.8]"))
    parser.add_argument("--seed", type=int, default=None, help=say("repeats a conversation", "用于重现对话"))
    return parser


@dataclass
class Side:
    """One of those who answer, and what was said with it."""

    name: str
    prefix: Prefix | None
    history: list[tuple[str, str]] = field(default_factory=list)


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Chat until somebody says stop; returns the exit code."""
    language = system_language()

    def say(en: str, zh: str) -> str:
        return zh if language == "zh" else en

    try:
        options = build_parser(say).parse_args(arguments)
        if options.compare and options.ptuning_checkpoint is None:
            raise RunError(
                "--compare needs a prefix to compare with: add --prefix CHECKPOINT.",
                "--compare 需要一个前缀来比较：请加上 --prefix 检查点目录。",
            )
        return _chat(options, say, Lines(sys.stdout))
    except ChatGLMError as error:
        print(error.localized(language), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print()
        return 0


def _chat(options: argparse.Namespace, say: Say, lines: Lines) -> int:
    from chatglm2 import ChatSession, Engine, load_model, load_prefix, load_tokenizer  # they import torch

    tokenizer = load_tokenizer(options.model_name_or_path, hub=options.hub)
    lines.change(say("Loading the model …", "正在加载模型 …"))
    model = load_model(
        options.model_name_or_path,
        dtype=options.dtype,
        quantization_bit=options.quantization_bit,
        device=options.device,
        hub=options.hub,
        shared=True,
        rope_precision=options.rope_precision,
    )
    sides = [Side(say("base", "基座模型"), None)]
    if options.ptuning_checkpoint is not None:
        prefix = load_prefix(options.ptuning_checkpoint, model.config)
        require_prefix_length(options.pre_seq_len, prefix.length)
        note = note_on_angles(read_checkpoint(options.ptuning_checkpoint), model.rotary_angles)
        if note is not None:
            lines.keep(say(*note))
        tuned = Side(options.ptuning_checkpoint.name, prefix)
        sides = [*sides, tuned] if options.compare else [tuned]
    with ExitStack() as stack:
        engine = Engine(model, slots=len(sides), max_length=options.max_length)
        stack.callback(engine.close)
        lines.keep(
            say(
                "Ask something. clear begins anew, history shows what was said, stop ends; Ctrl-C stops an answer.",
                "输入内容即可对话。clear 清空对话，history 查看历史，stop 结束；Ctrl-C 停止当前回答。",
            )
        )
        for query in _queries(say):
            if query in CLEAR:
                for side in sides:
                    side.history.clear()
            elif query in HISTORY:
                _show_history(sides, say)
            else:
                _answer(ChatSession(engine, tokenizer), query, sides, options, say)
    return 0


def _queries(say: Say) -> Iterator[str]:
    """What is typed, until the end of the input or a word that ends."""
    while True:
        try:
            query = input(say("\nYou: ", "\n用户：")).strip()
        except EOFError:
            print()
            return
        if query.lower() in STOP:
            return
        if query:
            yield query.lower() if query.lower() in CLEAR + HISTORY else query


def _answer(session: ChatSession, query: str, sides: Sequence[Side], options: argparse.Namespace, say: Say) -> None:
    """Show the answers as they are written, one after the other; what Ctrl-C leaves of them counts as said."""
    try:
        replies = [_reply(session, query, side, options) for side in sides]
    except PromptError as error:
        print(error.localized(system_language()))
        return
    for side, reply in zip(sides, replies, strict=True):
        print(say(f"\n{side.name}: ", f"\n{side.name}："), end="", flush=True)
        side.history.append((query, _show(reply)))


def _reply(session: ChatSession, query: str, side: Side, options: argparse.Namespace) -> ReplyStream:
    """An answer that has begun; all sides' are computed together."""
    from chatglm2 import SamplingParams

    prompt = session.fit_prompt(query, side.history, 1)
    room = max(1, session.engine.max_length - len(prompt.ids))
    sampling = SamplingParams(options.temperature, options.top_p, max_new_tokens=room)
    seed = random.randrange(2**31) if options.seed is None else options.seed + len(side.history)
    return session.answer(prompt, side.prefix, sampling, seed)


def _show(reply: ReplyStream) -> str:
    """Print an answer as it is written, and return it; after Ctrl-C what there is of it."""
    shown = ""
    try:
        for text in reply:
            if text.startswith(shown):
                print(text[len(shown) :], end="", flush=True)
                shown = text
    except KeyboardInterrupt:
        reply.cancel()
    print()
    return shown


def _show_history(sides: Sequence[Side], say: Say) -> None:
    for side in sides:
        for query, answer in side.history:
            print(say(f"\nYou: {query}\n{side.name}: {answer}", f"\n用户：{query}\n{side.name}：{answer}"))


if __name__ == "__main__":
    sys.exit(main())
