"""Each slot's row chooses with its own parameters, random numbers and memory of what was said."""

from __future__ import annotations

import pytest
import torch
from small_models import build_model
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from chatglm2 import Engine, Request, SamplingParams
from chatglm2.serving.sampling_state import SamplingState

CPU = torch.device("cpu")
VOCABULARY = 12
PENALIZED = SamplingParams(temperature=0, repetition_penalty=3.0)


@pytest.fixture
def logits() -> Tensor:
    """The higher a token, the likelier."""
    return torch.arange(VOCABULARY, dtype=torch.float32).unsqueeze(0) + 8


def chosen(state: SamplingState, slot: int, logits: Tensor, count: int) -> list[int]:
    return [int(state.choose([slot], logits)[0]) for _ in range(count)]


def test_the_penalty_bears_on_the_prompt_and_on_the_replys_own_tokens(logits: Tensor) -> None:
    state = SamplingState(2, VOCABULARY, CPU)
    state.enter(1, PENALIZED, seed=0, prompt_ids=[11, 9])
    assert chosen(state, 1, logits, 3) == [10, 8, 7]


def test_a_slots_next_row_remembers_nothing_of_the_last(logits: Tensor) -> None:
    state = SamplingState(1, VOCABULARY, CPU)
    state.enter(0, PENALIZED, seed=0, prompt_ids=[11])
    chosen(state, 0, logits, 2)
    state.enter(0, PENALIZED, seed=0, prompt_ids=[3])
    assert chosen(state, 0, logits, 1) == [11]


def test_a_row_without_a_penalty_repeats_itself_beside_one_with(logits: Tensor) -> None:
    state = SamplingState(2, VOCABULARY, CPU)
    state.enter(0, SamplingParams(temperature=0), seed=0, prompt_ids=[11])
    state.enter(1, PENALIZED, seed=0, prompt_ids=[11])
    both = [state.choose([0, 1], logits.expand(2, -1))[0].tolist() for _ in range(2)]
    assert both == [[11, 10], [11, 9]]


def test_a_seed_repeats_its_draws_whoever_draws_beside_it(logits: Tensor) -> None:
    params = SamplingParams(temperature=5.0, top_p=1.0, top_k=0)
    alone, shared = SamplingState(3, VOCABULARY, CPU), SamplingState(3, VOCABULARY, CPU)
    alone.enter(0, params, seed=7, prompt_ids=[1])
    for slot, seed in ((0, 1), (1, 2), (2, 7)):
        shared.enter(slot, params, seed, prompt_ids=[1])
    expected = chosen(alone, 0, logits, 8)
    assert [shared.choose([0, 1, 2], logits.expand(3, -1))[0].tolist()[2] for _ in range(8)] == expected
    assert len(set(expected)) > 1


def test_the_engines_penalty_equals_transformers() -> None:
    """Greedy, so that every token of the reply must have been counted, by both."""
    model, prompt = build_model(), [5, 6, 7]
    engine = Engine(model, slots=1)
    request = Request(prompt, sampling=SamplingParams(temperature=0, repetition_penalty=1.8, max_new_tokens=20))
    found, plain = list(engine.submit(request)), list(engine.submit(Request(prompt, sampling=SamplingParams(0.0))))
    engine.close()
    ids = list(prompt)
    penalty = RepetitionPenaltyLogitsProcessor(1.8)
    with torch.no_grad():
        for _ in found:
            scores = model(torch.tensor([ids]), logits_to_keep=1).logits[:, -1]
            ids.append(int(penalty(torch.tensor([ids]), scores).argmax()))
    assert found == ids[len(prompt) :] != plain[:20]
