"""What helps against forgetting: trains the demo model in several ways and compares what it learnt and what it kept.

Prints the table of docs/training.md. Answers are greedy; questions that stand in the general data are not asked.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chatglm2 import ChatGLMConfig, ChatSession, Engine, Prefix, load_model, load_prefix, load_tokenizer
from tools.demo_model.corpus import Corpus
from tools.demo_model.grammar import Garment
from tools.demo_model.report import GREEDY, SEED, additions_right, answer_all, percent
from training.evaluation.metrics import score

ROWS, CHAT_ROWS, SUMS = 60, 100, 200
MIX = "--mix_file assets/data/general.json"
AS_BEFORE = "--prefix_init random --keep 0 --max_steps 40 --per_device_train_batch_size 16"
RUNS = (
    AS_BEFORE,
    f"{AS_BEFORE} {MIX}",
    "--keep 0 --learning_rate 1e-8 --max_steps 1",
    "--keep 0",
    "--keep 0.25",
    "",
    "--keep 0.75",
    "--keep 1",
    "--preset gentle",
    "--pre_seq_len 8",
    "--prefix_init random",
)


def write_table(model_directory: Path, data_directory: Path) -> None:
    """Train and measure each way; prints a line of Markdown as soon as it is known."""
    model = load_model(model_directory)
    engine = Engine(model, slots=8)
    examination = Examination(ChatSession(engine, load_tokenizer(model_directory)), data_directory)
    print("| flags | task learnt (%) | ROUGE-L | chat kept word for word (%) | chat kept (ROUGE-L) | sums right (%) |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| base | {examination.describe(None)} |", flush=True)
    for flags in RUNS:
        print(f"| `{flags}` | {examination.describe(train_prefix(flags, model.config))} |", flush=True)
    engine.close()


def train_prefix(flags: str, config: ChatGLMConfig) -> Prefix:
    """The last checkpoint of a training with ``flags``, whose files are deleted."""
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "run"
        command = [sys.executable, "-m", "training.main", "--output_dir", str(run), *flags.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        last = max(run.glob("checkpoint-*"), key=lambda place: int(place.name.partition("-")[2]))
        return load_prefix(last, config)


@dataclass(frozen=True)
class Findings:
    """What a prefix learnt and what it kept, 0 to 100.

    Attributes:
        learnt: rows of the task that are answered as it asks.
        rouge_l: of the task's answers against the references.
        word_for_word: chat answers that are the base's own.
        chat_rouge_l: of chat answers against the base's own.
        sums: additions that are right.
    """

    learnt: float
    rouge_l: float
    word_for_word: float
    chat_rouge_l: float
    sums: float


class Examination:
    """The same questions for every prefix: rows of the task, everyday chat, sums."""

    def __init__(self, session: ChatSession, data_directory: Path) -> None:
        self.session = session
        rng, chat = random.Random(SEED), Corpus().chat
        known = {row["prompt"] for row in _rows(data_directory / "general.json")}
        asked = [chat.sample(rng)[0] for _ in range(CHAT_ROWS)]
        self.questions = [question for question in asked if question not in known]
        self.sums = [(rng.randrange(100), rng.randrange(100)) for _ in range(SUMS)]
        self.rows = _rows(data_directory / "dev.json")[:ROWS]
        self.before = answer_all(session, self.questions, None, GREEDY)

    def describe(self, prefix: Prefix | None) -> str:
        """The cells of a line."""
        return " | ".join(map(str, asdict(self.examine(prefix)).values()))

    def examine(self, prefix: Prefix | None) -> Findings:
        """A task's row is learnt when its answer is no plain list of its attributes."""
        grammar = Corpus().grammar
        answers = answer_all(self.session, [row["content"] for row in self.rows], prefix, GREEDY)
        pairs = list(zip(answers, self.rows, strict=True))
        chat = list(zip(self.before, answer_all(self.session, self.questions, prefix, GREEDY), strict=True))
        return Findings(
            learnt=percent([answer not in grammar.plain_forms(Garment.parse(row["content"])) for answer, row in pairs]),
            rouge_l=_mean([score(answer, row["summary"]).rouge_l for answer, row in pairs]),
            word_for_word=percent([old == new for old, new in chat]),
            chat_rouge_l=_mean([score(new, old).rouge_l for old, new in chat]),
            sums=additions_right(self.session, self.sums, prefix),
        )


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 1)
