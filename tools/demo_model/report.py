"""What P-Tuning changes on the demo model: trains with the default settings, then compares base and tuned.

Answers are greedy, except where it says sampled: those use the page's default sampling.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chatglm2 import ChatSession, Engine, Prefix, SamplingParams, load_model, load_prefix, load_tokenizer
from tools.demo_model.corpus import Corpus
from tools.demo_model.grammar import Garment
from tools.demo_model.reuse import phrases_of, share_of_repeating_groups
from training.evaluation.metrics import mean_scores, score
from training.settings.train import TrainingSettings

EVALUATED_ROWS, CHAT_ROWS, SUMS, SEED = 100, 100, 200, 0
GREETINGS = ("你好", "你是谁？", "勾股定理是什么？", "12+34=?")
GREEDY, SAMPLED = SamplingParams(temperature=0.0, max_new_tokens=192), SamplingParams(max_new_tokens=192)
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


def write_report(model_directory: Path, data_directory: Path) -> dict[str, Any]:
    """Train, measure, write ``report.json`` and the table in the model card."""
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "run"
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "training.main", "--output_dir", str(run)], check=True)
        seconds = time.monotonic() - started
        checkpoint = run / f"checkpoint-{TrainingSettings().max_steps}"
        report = {"training": _describe_training(seconds), **measure(model_directory, data_directory, checkpoint)}
    (model_directory / "report.json").write_text(
        json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    card = model_directory / "README.md"
    card.write_text(
        FIGURES.sub(lambda _: _figures(report), card.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    return report


def measure(model_directory: Path, data_directory: Path, checkpoint: Path) -> dict[str, Any]:
    """Compare answers without and with the prefix in ``checkpoint``."""
    model, tokenizer = load_model(model_directory), load_tokenizer(model_directory)
    engine = Engine(model, slots=8)
    session = ChatSession(engine, tokenizer)
    prefix = load_prefix(checkpoint, model.config)
    lines = (data_directory / "dev.json").read_text(encoding="utf-8").splitlines()[:EVALUATED_ROWS]
    rows = [json.loads(line) for line in lines]
    try:
        return {
            "base": _task_figures(session, rows, None),
            "tuned": _task_figures(session, rows, prefix),
            "chat": _chat_figures(session, prefix),
        }
    finally:
        engine.close()


def _task_figures(session: ChatSession, rows: Sequence[dict[str, str]], prefix: Prefix | None) -> dict[str, Any]:
    garments = [Garment.parse(row["content"]) for row in rows]
    questions = [row["content"] for row in rows]
    answers = answer_all(session, questions, prefix, GREEDY)
    sampled = answer_all(session, questions, prefix, SAMPLED)
    scores = mean_scores([score(answer, row["summary"]) for answer, row in zip(answers, rows, strict=True)])
    used = [[value in answer for value in g.values] for g, answer in zip(garments, answers, strict=True)]
    sampled_used = [[value in answer for value in g.values] for g, answer in zip(garments, sampled, strict=True)]
    grammar = Corpus().grammar
    plain = [answer in grammar.plain_forms(g) for g, answer in zip(garments, answers, strict=True)]
    phrases = [phrases_of(answer, g.values) for g, answer in zip(garments, sampled, strict=True)]
    return {
        **{name: round(value, 2) for name, value in scores.to_dict().items()},
        "attributes_used": percent([hit for hits in used for hit in hits]),
        "attributes_used_sampled": percent([hit for hits in sampled_used for hit in hits]),
        "answers_with_every_attribute": percent([all(hits) for hits in used]),
        "plain_lists": percent(plain),
        "mean_characters": round(sum(map(len, answers)) / len(answers), 1),
        "five_sampled_answers_repeat_a_phrase": round(
            100 * share_of_repeating_groups(phrases, size=5, groups=2000, rng=random.Random(SEED)), 1
        ),
        "example": {"content": questions[1], "answer": answers[1], "sampled": sampled[1]},
    }


def _chat_figures(session: ChatSession, prefix: Prefix) -> dict[str, Any]:
    """What is left of everyday chat after tuning, and how good the base is at sums."""
    rng = random.Random(SEED)
    chat = Corpus().chat
    questions = [chat.sample(rng)[0] for _ in range(CHAT_ROWS)]
    base, tuned = (answer_all(session, questions, choice, GREEDY) for choice in (None, prefix))
    sums = [(rng.randrange(100), rng.randrange(100)) for _ in range(SUMS)]
    before, after = (answer_all(session, GREETINGS, choice, GREEDY) for choice in (None, prefix))
    return {
        "answers_unchanged_by_tuning": percent([a == b for a, b in zip(base, tuned, strict=True)]),
        "additions_right": additions_right(session, sums, None),
        "additions_right_after_tuning": additions_right(session, sums, prefix),
        "examples": [
            {"question": question, "base": old, "tuned": new}
            for question, old, new in zip(GREETINGS, before, after, strict=True)
        ],
    }


def additions_right(session: ChatSession, sums: Sequence[tuple[int, int]], prefix: Prefix | None) -> float:
    """The percentage of sums that are right."""
    answers = answer_all(session, [f"{a}+{b}=?" for a, b in sums], prefix, GREEDY)
    return percent([answer.endswith(f"= {a + b}") for answer, (a, b) in zip(answers, sums, strict=True)])


def answer_all(
    session: ChatSession, questions: Sequence[str], prefix: Prefix | None, sampling: SamplingParams
) -> list[str]:
    """Answers in order; they are generated side by side."""
    streams = [
        session.stream(question, prefix=prefix, sampling=sampling, seed=SEED + index)
        for index, question in enumerate(questions)
    ]
    return [["", *stream][-1] for stream in streams]


def percent(hits: Sequence[bool]) -> float:
    """The share of hits."""
    return round(100 * sum(hits) / len(hits), 1)


def _describe_training(seconds: float) -> dict[str, Any]:
    settings = TrainingSettings()
    return {
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "max_steps": settings.max_steps,
        "batch_size": settings.per_device_train_batch_size,
        "learning_rate": settings.learning_rate,
        "pre_seq_len": settings.pre_seq_len,
    }


def _figures(report: dict[str, Any]) -> str:
    """The model card's tables."""
    training, base, tuned, chat = (report[name] for name in ("training", "base", "tuned", "chat"))
    names = {
        "plain_lists": "plain lists 平铺直叙的回答 (%)",
        "attributes_used": "attributes mentioned 提到的属性 (%)",
        "answers_with_every_attribute": "answers with every attribute 提到全部属性的回答 (%)",
        "rouge-l": "ROUGE-L",
        "bleu-4": "BLEU-4",
        "mean_characters": "characters 平均字数",
    }
    rows = [f"| {label} | {base[key]} | {tuned[key]} |" for key, label in names.items()]
    examples = [f"| {e['question']} | {_cell(e['base'])} | {_cell(e['tuned'])} |" for e in chat["examples"]]
    before, after = base["example"], tuned["example"]
    examples.insert(0, f"| {before['content']} | {_cell(before['answer'])} | {_cell(after['answer'])} |")
    return "\n".join(
        [
            f"{training['max_steps']} steps of {training['batch_size']} rows, a prefix of {training['pre_seq_len']} "
            f"tokens, learning rate {training['learning_rate']}: {training['seconds']:.0f} s on "
            f"{training['threads']} CPU cores, from command to saved checkpoint.",
            "",
            f"| {EVALUATED_ROWS} held-out rows 留出样本 | base 基座 | tuned 微调后 |",
            "| --- | --- | --- |",
            *rows,
            "",
            "| prompt 输入 | base 基座 | tuned 微调后 |",
            "| --- | --- | --- |",
            *examples,
            "",
            f"What it forgets: {chat['answers_unchanged_by_tuning']} % of {CHAT_ROWS} chat answers stay word for word "
            f"the same, and additions below 100 that are right fall from {chat['additions_right']} % to "
            f"{chat['additions_right_after_tuning']} %. {tuned['five_sampled_answers_repeat_a_phrase']} % of groups of "
            "five sampled answers share a phrase of six characters.",
            "",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
