"""General rows with what the base says at each of their places: a few for every step.

Knows order, padding and what each label counts. The order depends on the seed and the step alone, and each step has the
same rows however its task's rows are split into passes or shared among processes; so a resumed run goes on with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from training.data.batching import deal
from training.data.encoding import IGNORED_LABEL, EncodedExample
from training.distributed.ranks import ALONE, Ranks
from training.keep.questions import BaseAnswer
from training.settings.keep_recipe import KeepRecipe

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class KeptRow:
    """A question with the base's answer, and the base's hidden states ``[n, H]`` where it says the answer's tokens."""

    example: EncodedExample
    base_hidden: Tensor

    @property
    def answer_start(self) -> int:
        """Where the first hidden state belongs: at the last token of the prompt."""
        return len(self.example.input_ids) - 1 - len(self.base_hidden)


class KeptRows:
    """Deals general rows to the steps of a run.

    Args:
        rows: all there are.
        recipe: how many a step, and what they count.
        seed: of their order.
        pad_id: for what is shorter than its batch.
        ranks: the processes that share a step's rows.
    """

    def __init__(
        self, rows: Sequence[KeptRow], recipe: KeepRecipe, seed: int, pad_id: int, ranks: Ranks = ALONE
    ) -> None:
        self._rows = rows
        self._recipe = recipe
        self._seed = seed
        self._pad_id = pad_id
        self._ranks = ranks

    def at(self, step: int) -> dict[str, Tensor]:
        """This process's general rows of ``step``, as a pass: ``input_ids`` and ``labels`` ``[rows, length]``,
        ``base_hidden`` ``[rows, length, H]`` and ``loss_weights`` ``[rows]``.

        The weights make the sum over all processes, divided by their number, the mean over all labels of the step.
        """
        count = self._recipe.rows
        dealt = deal(len(self._rows), step * count, (step + 1) * count, self._seed)
        chosen = [self._rows[index] for index in dealt.tolist()]
        labels = sum(len(row.base_hidden) for row in chosen)
        weight = self._recipe.weight * self._ranks.size / labels
        mine = chosen[self._ranks.rank :: self._ranks.size]
        weights = [weight] * len(mine)
        if len(mine) < -(-count // self._ranks.size):  # each process takes as many passes: this one counts nothing
            mine, weights = [*mine, chosen[0]], [*weights, 0.0]
        return self._pad(mine) | {"loss_weights": torch.tensor(weights)}

    def _pad(self, rows: Sequence[KeptRow]) -> dict[str, Tensor]:
        length = max(len(row.example.input_ids) for row in rows)
        first = rows[0].base_hidden
        ids = torch.full((len(rows), length), self._pad_id)
        labels = torch.full_like(ids, IGNORED_LABEL)
        hidden = first.new_zeros(len(rows), length, first.shape[1])
        for index, row in enumerate(rows):
            end = len(row.example.input_ids)
            ids[index, :end] = torch.tensor(row.example.input_ids)
            labels[index, :end] = torch.tensor(row.example.labels)
            hidden[index, row.answer_start : end - 1] = row.base_hidden
        return {"input_ids": ids, "labels": labels, "base_hidden": hidden}


def encode_answers(answers: Sequence[BaseAnswer], tokenizer: ChatGLMTokenizer) -> list[EncodedExample]:
    """Ids and labels of the base's answers, each as a chat's first round; one that was cut has no end."""
    examples = []
    for item in answers:
        prompt = tokenizer.encode_prompt(item.question)
        said = tokenizer.encode_text(item.answer) + ([] if item.is_cut else [int(tokenizer.eos_token_id)])
        examples.append(EncodedExample(prompt + said, [IGNORED_LABEL] * len(prompt) + said))
    return [example for example in examples if example.labels[-1] != IGNORED_LABEL]


def with_base_hidden(
    examples: Sequence[EncodedExample], model: ChatGLMForConditionalGeneration, pad_id: int
) -> list[KeptRow]:
    """The examples with the base's hidden states, in the host's memory: they are needed again and again."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    rows: dict[int, KeptRow] = {}
    for start in range(0, len(order), ROWS_AT_ONCE):
        places = order[start : start + ROWS_AT_ONCE]
        length = len(examples[places[-1]].input_ids)
        ids = torch.full((len(places), length), pad_id)
        for row, place in enumerate(places):
            ids[row, : len(examples[place].input_ids)] = torch.tensor(examples[place].input_ids)
        hidden = model.final_hidden(ids.to(model.device)).cpu()
        for row, place in enumerate(places):
            example = examples[place]
            answered = sum(label != IGNORED_LABEL for label in example.labels)
            end = len(example.input_ids) - 1  # the last token is said by the one before it
            rows[place] = KeptRow(example, hidden[row, end - answered : end].clone())
    return [rows[place] for place in range(len(examples))]
