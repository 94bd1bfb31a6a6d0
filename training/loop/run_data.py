"""The data that a run's settings name, as datasets to train and validate on.

Knows which file is for what, and tells the run what was left out or mixed in. Knows no model and takes no step.
"""

from __future__ import annotations

import logging
import random

from chatglm2 import load_tokenizer
from chatglm2.text.instruction import frame_instruction
from training.data.batching import ExampleDataset
from training.data.columns import ColumnMapping, find_columns, find_general_columns
from training.data.encoding import Example, ExampleEncoder, read_examples
from training.data.files import Table, read_table
from training.data.instruction import LOOKED_AT, propose_sentence
from training.runs.events import MessageEvent
from training.runs.store import Run
from training.settings.train import TrainingSettings

logger = logging.getLogger(__name__)


def load_data(run: Run, settings: TrainingSettings) -> tuple[ExampleDataset, ExampleDataset | None]:
    """What the run trains on, general rows mixed in if asked for, and what it validates on, if it does.

    Raises:
        ChatGLMError: for a file that cannot be used; broken rows are left out if the settings say so.
    """
    tokenizer = load_tokenizer(settings.model_name_or_path, hub=settings.hub)
    encoder = ExampleEncoder(tokenizer, settings)
    examples = _read(run, settings.train_file, settings, settings.max_train_samples)
    held_back: list[Example] = []
    if settings.eval_steps and not settings.validation_file:
        examples, held_back = hold_back(examples, settings)
        _tell_split(run, examples, held_back)
    general = _read_general(run, settings) if settings.mix_file and settings.mix_ratio else []
    dataset = ExampleDataset(examples, encoder, general, settings.mix_ratio)
    if general:
        _tell_mixture(run, dataset, settings)
    if not settings.eval_steps:
        return dataset, None
    if settings.validation_file:
        held_back = _read(run, settings.validation_file, settings, settings.max_eval_samples)
    return dataset, ExampleDataset(held_back, encoder)


def hold_back(examples: list[Example], settings: TrainingSettings) -> tuple[list[Example], list[Example]]:
    """Rows to train on and rows to validate on: the same for the same file, share and seed.

    Rows that say the same stay on one side, or what is validated on would have been learnt. Where no two differ,
    nothing can be held back: they are trained on and validated on.
    """
    alike = _alike(examples)
    if len(alike) < 2:
        return examples, examples
    wanted = max(1, round(len(examples) * settings.validation_split))
    count = min(wanted, settings.max_eval_samples or wanted)
    drawn = random.Random(settings.seed).sample(range(len(alike)), min(count, len(alike) - 1))
    held: set[int] = set()
    for places in (alike[number] for number in drawn):
        if len(held) + len(places) <= count:
            held.update(places)
    if not held:  # each of those is there more often than wanted
        rarest: list[int] = min(alike, key=len)
        held.update(rarest)
    kept = [example for place, example in enumerate(examples) if place not in held]
    return kept, [examples[place] for place in sorted(held)]


def _alike(examples: list[Example]) -> list[list[int]]:
    """Where each row is, and all that say the same with it."""
    places: dict[Example, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example, []).append(place)
    return list(places.values())


def start_sentence(settings: TrainingSettings, dataset: ExampleDataset) -> tuple[str, list[int]]:
    """The sentence that a prefix starts from, the user's or one that the rows suggest, and as many ids as it has."""
    rows = dataset.mixture.task_rows
    text = settings.prefix_text.strip() or propose_sentence(
        [dataset.example(index) for index in range(0, rows, max(1, rows // LOOKED_AT))]
    )
    return text, frame_instruction(dataset.encoder.tokenizer, text, settings.pre_seq_len or 0)


def _read(run: Run, file: str, settings: TrainingSettings, limit: int | None) -> list[Example]:
    table = read_table(file, skip_bad_rows=settings.skip_bad_rows)
    return _examples(run, table, find_columns(table, settings), limit)


def _read_general(run: Run, settings: TrainingSettings) -> list[Example]:
    table = read_table(str(settings.mix_file), skip_bad_rows=settings.skip_bad_rows)
    return _examples(run, table, find_general_columns(table, settings), None)


def _examples(run: Run, table: Table, columns: ColumnMapping, limit: int | None) -> list[Example]:
    examples, dropped = read_examples(table, columns, limit)
    name = table.path.name
    if dropped:
        _tell(
            run,
            f"{name}: {dropped} rows have an empty prompt or answer and are left out.",
            f"{name}：{dropped} 行的提示或回答为空，已跳过。",
        )
    if table.bad_rows.numbers:
        _tell(run, *table.bad_rows.describe(name))
    logger.info("%s: %d examples, %s → %s", name, len(examples), columns.prompt, columns.response)
    return examples


def _tell_split(run: Run, examples: list[Example], held_back: list[Example]) -> None:
    if examples is held_back:
        _tell(
            run,
            "There is one row only, or all are the same, so nothing can be held back: the same is trained on and "
            "validated on.",
            "只有一行数据，或所有行都相同，无法留出验证数据：训练和验证使用同样的数据。",
        )
        return
    _tell(
        run,
        f"{len(held_back)} rows are held back for validation; {len(examples)} are trained on.",
        f"留出 {len(held_back)} 行用于验证，其余 {len(examples)} 行用于训练。",
    )


def _tell_mixture(run: Run, dataset: ExampleDataset, settings: TrainingSettings) -> None:
    mixture = dataset.mixture
    _tell(
        run,
        f"An epoch is {mixture.task_rows} rows + {mixture.general_rows} general rows "
        f"({settings.mix_ratio:.0%} of what is trained on), dealt from {mixture.available}.",
        f"每轮训练 {mixture.task_rows} 条任务样本 + {mixture.general_rows} 条通用样本"
        f"（占训练样本的 {settings.mix_ratio:.0%}），取自 {mixture.available} 条。",
    )


def _tell(run: Run, en: str, zh: str) -> None:
    run.append(MessageEvent(en=en, zh=zh))
    logger.info("%s", en)
