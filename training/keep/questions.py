"""General questions and the base's own answers to them: what a run is kept to.

Questions come from a file, and from the base, which goes on writing from where a round begins. What it writes counts as
a question if the base itself turns to answering it. Knows the run's file that holds them; does not know how they are
trained on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Engine, Request, SamplingParams
from training.data.encoding import Example, find_general_prompts
from training.data.files import read_table
from training.evaluation.answering import ASKING, answer_examples
from training.runs.layout import BASE_ANSWERS_FILE
from training.runs.storage import explaining_storage_errors, read_json, write_atomically
from training.settings.keep_recipe import LONGEST_QUESTION_TOKENS
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)
# Some thousand questions and answers, of some hundred characters each.
ANSWERS_BYTES = 64 * 2**20
QUESTION_TOKENS = 48
SLOTS = 16
# Of what the base writes, this part at least must be questions: else it was never taught to write any.
LEAST_SHARE_OF_QUESTIONS = 0.1
FIRST_TRIES = 32


@dataclass(frozen=True)
class BaseAnswer:
    """What the base says to a question; ``is_cut`` where it had not finished."""

    question: str
    answer: str
    is_cut: bool = False


_ANSWERS = TypeAdapter(list[BaseAnswer])


def read_answers(directory: Path) -> list[BaseAnswer] | None:
    """What an earlier part of the run kept; None where there is nothing of use."""
    try:
        return _ANSWERS.validate_python(read_json(directory / BASE_ANSWERS_FILE, ANSWERS_BYTES)) or None
    except (OSError, ValueError):
        return None


def write_answers(directory: Path, answers: Sequence[BaseAnswer]) -> None:
    """Keep them with the run: one that goes on needs the same."""
    content = [asdict(answer) for answer in answers]
    file = directory / BASE_ANSWERS_FILE
    with explaining_storage_errors(file):
        write_atomically(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def gather_questions(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    settings: TrainingSettings,
    count: int,
    avoided: Collection[str] = (),
) -> list[str]:
    """At most ``count`` distinct questions: the base's own first, as many as are asked for, then the file's.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        settings: which name the file, how many the base shall write, and the seed.
        count: of questions.
        avoided: questions that others watch: they must not be trained on.

    Raises:
        DataError: for a file that cannot be used.
    """
    taken = dict.fromkeys(map(_plain, avoided))
    questions: list[str] = []

    def take(question: str) -> None:
        plain = _plain(question)
        if plain and plain not in taken and len(tokenizer.encode_text(question)) <= LONGEST_QUESTION_TOKENS:
            taken[plain] = None
            questions.append(question)

    for question in write_questions(model, tokenizer, min(settings.keep_own, count), settings.seed):
        take(question)
    own = len(questions)
    if settings.keep_file:
        table = read_table(settings.keep_file, skip_bad_rows=settings.skip_bad_rows)
        prompts = find_general_prompts(table, settings)
        random.Random(settings.seed).shuffle(prompts)
        for question in prompts:
            if len(questions) < count:
                take(question)
    logger.info("General questions: %d of the base's own, %d of a file", own, len(questions) - own)
    return questions


def write_questions(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, count: int, seed: int
) -> list[str]:
    """What the base writes where a question would stand, ``count`` times; what is no question is left out."""
    if count == 0:
        return []
    start, answer_cue = tokenizer.build_prompt("\0").split("\0")
    begin = tokenizer.get_prefix_tokens() + tokenizer.encode_text(start)
    sampling = SamplingParams(temperature=1.0, top_p=0.95, top_k=0, max_new_tokens=QUESTION_TOKENS)
    found: list[str] = []
    with contextlib.closing(Engine(model, slots=SLOTS, max_length=len(begin) + QUESTION_TOKENS + 1)) as engine:
        for first in range(0, count, FIRST_TRIES):
            tries = range(first, min(first + FIRST_TRIES, count))
            for stream in engine.submit_all([Request(begin, None, sampling, seed + n) for n in tries]):
                question, cue, _ = tokenizer.decode_ids(stream).partition(answer_cue)
                if cue and question.strip():
                    found.append(question.strip())
            if len(found) < LEAST_SHARE_OF_QUESTIONS * (first + len(tries)):
                break
    return found


def answer_questions(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    questions: Sequence[str],
    settings: TrainingSettings,
) -> list[BaseAnswer]:
    """The base's greedy answers, as a user would get them: without the task's frame."""
    asking = replace(settings, **ASKING, per_device_eval_batch_size=SLOTS)
    examples = [Example(question, "") for question in questions]
    answers = {place: answer for place, (answer,) in answer_examples(model, tokenizer, examples, asking)}
    return [
        BaseAnswer(question, answers[place].text, answers[place].is_cut)
        for place, question in enumerate(questions)
        if answers[place].text
    ]


def _plain(question: str) -> str:
    return "".join(question.split())
