"""Command line of the demo model's tool; ``--help`` lists the steps in order."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL_DIRECTORY = ROOT / "assets" / "demo-model"
DATA_DIRECTORY = ROOT / "assets" / "data"
TOKENIZER_ROWS, VOCAB_SIZE, TOKENIZER_SEED = 60_000, 6_000, 7
TRAIN_ROWS, TRAIN_SEED, DEV_ROWS = 2_000, 2024, 200
GENERAL_ROWS, GENERAL_SEED = 1_000, 2025
CHOICE_ROWS, CHOICE_SEED = 60, 2026


def make_data() -> None:
    """Write the sample data."""
    from tools.demo_model.bias import sample_file
    from tools.demo_model.choices import choice_rows
    from tools.demo_model.corpus import Corpus, write_json_lines

    corpus = Corpus()
    rows = corpus.sample_rows(TRAIN_SEED, TRAIN_ROWS + DEV_ROWS)
    write_json_lines(rows[:TRAIN_ROWS], DATA_DIRECTORY / "train.json")
    write_json_lines(rows[TRAIN_ROWS:], DATA_DIRECTORY / "dev.json")
    write_json_lines(corpus.general_rows(GENERAL_SEED, GENERAL_ROWS), DATA_DIRECTORY / "general.json")
    write_json_lines(choice_rows(CHOICE_SEED, CHOICE_ROWS), DATA_DIRECTORY / "choices.json")
    attributes = json.dumps(sample_file(), ensure_ascii=False, indent=1)
    (DATA_DIRECTORY / "bias.json").write_text(attributes + "\n", encoding="utf-8")


def make_tokenizer() -> None:
    """Train the vocabulary."""
    from tools.demo_model.corpus import Corpus
    from tools.demo_model.tokenizer import train_tokenizer

    rows = Corpus(invented_share=0.0).rows(TOKENIZER_SEED, TOKENIZER_ROWS)
    train_tokenizer(rows, MODEL_DIRECTORY, VOCAB_SIZE)


def main() -> None:
    from tools.demo_model.train import Recipe, train

    parser = argparse.ArgumentParser(prog="python -m tools.demo_model", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("data", help="write assets/data/")
    steps.add_parser("tokenizer", help="train the vocabulary into assets/demo-model/")
    training = steps.add_parser("train", help="train the model from scratch; minutes on one GPU")
    training.add_argument("--output", type=Path, default=MODEL_DIRECTORY)
    steps.add_parser("report", help="P-Tune with the default settings and compare; writes the model card's tables")
    steps.add_parser("forgetting", help="compare what helps against forgetting; half an hour on two cores")
    steps.add_parser("combining", help="put two prefixes side by side, and average two; ten minutes on two cores")
    for item in fields(Recipe):
        training.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    arguments = parser.parse_args()
    if arguments.step == "data":
        make_data()
    elif arguments.step == "tokenizer":
        make_tokenizer()
    elif arguments.step == "report":
        from tools.demo_model.report import write_report

        write_report(MODEL_DIRECTORY, DATA_DIRECTORY)
    elif arguments.step == "forgetting":
        from tools.demo_model.forgetting import write_table

        write_table(MODEL_DIRECTORY, DATA_DIRECTORY)
    elif arguments.step == "combining":
        from tools.demo_model.combining import write_tables

        write_tables(MODEL_DIRECTORY, DATA_DIRECTORY)
    else:
        recipe = Recipe(**{item.name: getattr(arguments, item.name) for item in fields(Recipe)})
        train(MODEL_DIRECTORY, arguments.output, recipe)


if __name__ == "__main__":
    main()
