"""Two prefixes side by side, and the mean of two runs, trained on the demo model: the tables of docs/strength.md.

The second task is formal speech: everyday questions, answered with a salutation, a polite 您 and a closing line.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chatglm2 import ChatSession, Engine, Prefix, load_model, load_prefix, load_tokenizer
from chatglm2.model.blending import average_prefixes, blend_prefixes
from tools.demo_model.corpus import Corpus, write_json_lines
from tools.demo_model.forgetting import Examination
from tools.demo_model.report import GREEDY, answer_all, percent

SALUTATION, CLOSING = "您好！", "请随时吩咐。"  # words that so small a model has met
ROWS, SEED, ASKED, ASKED_SEED = 1_000, 2026, 60, 1
KEPT, KEPT_SEED = 600, 2027
# How adverts are trained, and how formal speech: with nothing kept, and keeping what is none of a task's business. The
# second task is further from what the model was trained on. It changes the everyday answers that the defaults keep,
# so that it keeps others, of a file of its own.
AS_BEFORE = ("--prefix_init", "random", "--keep", "0", "--per_device_train_batch_size", "16")
RECIPES = {
    "nothing kept": ((*AS_BEFORE, "--max_steps", "40"), (*AS_BEFORE, "--max_steps", "160")),
    "the rest kept": ((), ("--max_steps", "160", "--keep_own", "0", "--keep_file", "{others}")),
}
MIXES = ((0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.0, 1.0), (0.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 0.5))


def formal_rows(seed: int, count: int) -> list[dict[str, str]]:
    """Everyday questions with formal answers."""
    rng, chat = random.Random(seed), Corpus().chat
    turns = [rng.choice((chat.intent, chat.intent, chat.fallback))(rng) for _ in range(count)]
    return [{"prompt": question, "response": formal(answer)} for question, answer in turns]


def other_questions(sums: Sequence[str]) -> list[dict[str, str]]:
    """What is none of the second task's business: sums but for those given, facts, translations."""
    rng, chat = random.Random(KEPT_SEED), Corpus().chat
    kinds = (chat.sum, chat.raw, chat.translation, chat.capital, chat.fabric)
    asked = [rng.choice(kinds)(rng)[0] for _ in range(KEPT)]
    return [{"prompt": question, "response": ""} for question in asked if question not in sums]


def formal(answer: str) -> str:
    """An answer as an official would give it."""
    return f"{SALUTATION}{answer.replace('你', '您')}{CLOSING}"


def write_tables(model_directory: Path, data_directory: Path) -> None:
    """Train both tasks, in both ways, and the first on two halves of its data; print what every mix of them does."""
    model = load_model(model_directory)
    engine = Engine(model, slots=8)
    session = ChatSession(engine, load_tokenizer(model_directory))
    examination = Examination(session, data_directory)
    known = formal_rows(SEED, ROWS)
    prompts = {row["prompt"] for row in known}
    questions = [row["prompt"] for row in formal_rows(ASKED_SEED, ASKED) if row["prompt"] not in prompts]
    adverts = (data_directory / "train.json").read_text(encoding="utf-8").splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as parent:
        files = {name: Path(parent) / f"{name}.json" for name in ("adverts", "formal", "first", "second", "others")}
        write_json_lines(known, files["formal"])
        write_json_lines(other_questions([f"{a}+{b}=?" for a, b in examination.sums]), files["others"])
        for name, lines in (("adverts", adverts), ("first", adverts[::2]), ("second", adverts[1::2])):
            files[name].write_text("".join(lines), encoding="utf-8")

        def trained(name: str, flags: Sequence[str]) -> Prefix:
            given = [flag.format(others=files["others"]) for flag in flags]
            return load_prefix(_train(files[name], *given), model.config)

        for title, (of_adverts, of_formal) in RECIPES.items():
            prefixes = trained("adverts", of_adverts), trained("formal", of_formal)
            print(f"{title}\n")
            _print_mixes(examination, session, questions, prefixes)
        first, second = trained("first", ()), trained("second", ())
    print("the mean of two runs\n")
    for name, prefix in (("one half", first), ("the other", second), ("mean", average_prefixes([first, second]))):
        print(f"| {name} | {examination.describe(prefix)} |", flush=True)
    engine.close()


def _print_mixes(
    examination: Examination, session: ChatSession, questions: Sequence[str], prefixes: tuple[Prefix, Prefix]
) -> None:
    columns = ("adverts", "formal", "formal answers (%)", "task learnt (%)", "ROUGE-L", "chat word for word (%)")
    print("|", " | ".join((*columns, "chat ROUGE-L", "sums right (%)")), "|")
    print("|---" * (len(columns) + 2) + "|")
    for strengths in MIXES:
        mix = blend_prefixes(list(zip(prefixes, strengths, strict=True)))
        cells = f"{formality(session, questions, mix)} | {examination.describe(mix)}"
        print(f"| {strengths[0]:g} | {strengths[1]:g} | {cells} |", flush=True)
    print()


def formality(session: ChatSession, questions: Sequence[str], prefix: Prefix | None) -> float:
    """The percentage of answers with salutation and closing line."""
    answers = answer_all(session, questions, prefix, GREEDY)
    return percent([answer.startswith(SALUTATION) and answer.endswith(CLOSING) for answer in answers])


def _train(file: Path, *flags: str) -> Path:
    run = file.with_suffix("")
    told = ("--train_file", str(file), "--output_dir", str(run), "--overwrite_output_dir")
    command = [sys.executable, "-m", "training.main", *told, *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return max(run.glob("checkpoint-*"), key=lambda place: int(place.name.partition("-")[2]))
