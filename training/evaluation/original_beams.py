"""Beam search's length penalty as transformers 4.30 has it, which the original used: the prompt counts as length, too.

Knows the two places of transformers' ``generate()`` where a beam's score is divided by its length; searches nothing.
Checked against recorded answers of 4.30.2 in tests/unit/training/test_original_beams.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counting_prompts(model: Any, end: int) -> Iterator[None]:
    """While it lasts, ``model.generate(num_beams=…)`` ranks beams as 4.30 does.

    A finished beam's log-probability is divided by all tokens of prompt and answer without the ``end``, which one that
    was cut off does not have. Running beams are judged by the length that they have with the next token.
    """
    update, check = model._update_finished_beams, model._check_early_stop_heuristic

    def update_as_before(**given: Any) -> Any:
        length, penalty = given["cur_len"], given["length_penalty"]
        ended = given["topk_running_sequences"][:, :, length] == end
        # What follows divides by ``length`` for all; a beam without an end has one token more.
        cut = given["topk_log_probs"] * (length / (length + 1)) ** penalty
        scores = given["topk_log_probs"].where(ended, cut)
        return update(**{**given, "topk_log_probs": scores, "decoder_prompt_len": 1})

    def check_as_before(**given: Any) -> Any:
        return check(**{**given, "decoder_prompt_len": 0})

    model._update_finished_beams, model._check_early_stop_heuristic = update_as_before, check_as_before
    try:
        yield
    finally:
        del model._update_finished_beams, model._check_early_stop_heuristic
