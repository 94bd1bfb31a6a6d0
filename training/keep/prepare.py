"""From a run's settings to its general rows: found again where the run goes on, made by the base where it begins.

Knows the order of things and what to tell the run.
"""

from __future__ import annotations

from collections.abc import Collection

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm2.errors import RunError
from training.distributed.ranks import ALONE, Ranks
from training.keep.questions import (
    BaseAnswer,
    answer_questions,
    gather_questions,
    read_answers,
    write_answers,
)
from training.keep.rows import KeptRows, encode_answers, with_base_hidden
from training.runs.events import MessageEvent
from training.runs.store import Run
from training.settings.keep_recipe import KeepRecipe, recipe_for
from training.settings.train import TrainingSettings


def prepare_kept_rows(
    run: Run,
    settings: TrainingSettings,
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    avoided: Collection[str] = (),
    ranks: Ranks = ALONE,
) -> KeptRows | None:
    """The run's general rows, the same in all processes; None where nothing is to be kept.

    Raises:
        DataError: for a file of questions that cannot be used.
        RunError: where no question is left.
    """
    recipe = recipe_for(settings.keep)
    if recipe is None:
        return None
    answers = read_answers(run.path)
    if answers is None and ranks.is_first:
        answers = _let_base_answer(run, settings, recipe, model, tokenizer, avoided)
    answers = ranks.share(answers)
    assert answers is not None
    pad_id = int(tokenizer.pad_token_id)
    was_training = model.training
    rows = with_base_hidden(encode_answers(answers, tokenizer), model.eval(), pad_id)
    model.train(was_training)
    return KeptRows(rows, recipe, settings.seed, pad_id, ranks)


def _let_base_answer(
    run: Run,
    settings: TrainingSettings,
    recipe: KeepRecipe,
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    avoided: Collection[str],
) -> list[BaseAnswer]:
    wanted = recipe.questions if settings.max_steps < 0 else min(recipe.questions, settings.max_steps * recipe.rows)
    questions = gather_questions(model, tokenizer, settings, wanted, avoided)
    answers = answer_questions(model, tokenizer, questions, settings)
    if not answers:
        raise RunError(
            "--keep needs general questions, and there is none: this base writes none of its own. Name a file of "
            "questions (--keep_file), or train without (--keep 0).",
            "--keep 需要通用问题，但一个也没有：这个基座模型自己写不出问题。"
            "请用 --keep_file 指定问题文件，或不使用该功能（--keep 0）。",
        )
    write_answers(run.path, answers)
    run.append(
        MessageEvent(
            en=f"Kept to the base: {len(answers)} general questions with its own answers, {recipe.rows} a step.",
            zh=f"保持与基座模型一致：{len(answers)} 个通用问题及基座自己的回答，每步 {recipe.rows} 条。",
        )
    )
    return answers
