"""Evaluation on this machine, as ratios in one run: answers through the engine against one-by-one ``generate()``.

    python -m benchmarks.evaluation                       # the demo model and its sample rows
    python -m benchmarks.evaluation --model DIR_OR_ID --file rows.json --ptuning_checkpoint DIR

Both answer the same rows greedily, with the original's token budget, so both compute the same tokens (`same_answers`
counts the rows where that is so: rounding may part them in half precision).
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any, cast

import torch

import chatglm2
from benchmarks.common import median_ratio, report, time_in_turns
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from training.data.columns import find_columns
from training.data.encoding import Example, ExampleEncoder, read_examples
from training.data.files import read_table
from training.evaluation.answering import answer_examples, token_budget
from training.settings.samples import DEMO_MODEL, SAMPLE_DEV_FILE
from training.settings.train import TrainingSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--file", default=str(SAMPLE_DEV_FILE))
    parser.add_argument("--ptuning_checkpoint")
    parser.add_argument("--quantization-bit", type=int, choices=(4, 8))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--max_source_length", type=int, default=64)
    parser.add_argument("--max_target_length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of generate(), on a CPU; 1 where other programs are at work")
    arguments = parser.parse_args()

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = chatglm2.load_model(arguments.model, quantization_bit=arguments.quantization_bit)
    tokenizer = chatglm2.load_tokenizer(arguments.model)
    path = arguments.ptuning_checkpoint
    prefix = chatglm2.load_prefix(path, model.config) if path else None
    settings = TrainingSettings(
        max_source_length=arguments.max_source_length,
        max_target_length=arguments.max_target_length,
        do_sample=False,
    )
    table = read_table(arguments.file)
    examples, _ = read_examples(table, find_columns(table, settings), arguments.rows)
    compare(model, tokenizer, examples, settings, prefix, arguments.batch_sizes, arguments.rounds)


def compare(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: list[Example],
    settings: TrainingSettings,
    prefix: Prefix | None,
    batch_sizes: list[int],
    rounds: int,
) -> None:
    """Time ``generate()`` and every batch size in turns."""
    answers: dict[str, list[str]] = {}

    def one_by_one() -> None:
        encoder = ExampleEncoder(tokenizer, settings)
        answers["generate"] = []
        for example in examples:
            ids = torch.tensor([encoder.encode_prompt(example)], device=model.device)
            output: Any = cast(Any, model).generate(
                ids,
                attention_mask=torch.ones_like(ids),
                prefix=[prefix],
                max_length=token_budget(settings),
                do_sample=False,
            )
            answers["generate"].append(tokenizer.decode_ids(output[0, ids.shape[1] :].tolist()))

    def batched(size: int) -> None:
        asked = replace(settings, per_device_eval_batch_size=size)
        found = dict(answer_examples(model, tokenizer, examples, asked, (prefix,)))
        answers[str(size)] = [found[index][0].text for index in range(len(examples))]

    cases: dict[str, Any] = {"generate": one_by_one}
    cases |= {str(size): lambda size=size: batched(size) for size in batch_sizes}
    seconds = time_in_turns(cases, rounds)
    count = len(examples)
    for name, times in seconds.items():
        report(
            "evaluation",
            batch_size=name,
            examples_per_second=count / statistics.median(times),
            over_generate=median_ratio(seconds["generate"], times),
            rows=count,
            same_answers=sum(map(str.__eq__, answers[name], answers["generate"])),
            tokens=sum(len(tokenizer.encode_text(text)) for text in answers[name]),
        )


if __name__ == "__main__":
    main()
