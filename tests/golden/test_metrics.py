"""The scores are the original's, and an empty answer is a 0 instead of the end of the evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from training.evaluation.metrics import Scores, mean_scores, score

README_REFERENCE = (
    "简约而不简单的牛仔外套，白色的衣身十分百搭。衣身多处有做旧破洞设计，打破单调乏味，增加一丝造型看点。"
    "衣身后背处有趣味刺绣装饰，丰富层次感，彰显别样时尚。"
)


def test_scores_equal_the_originals_on_real_pairs(vectors: dict[str, Any]) -> None:
    pairs = vectors["metrics"]
    assert pairs
    for pair in pairs:
        expected = {name: pair[name] for name in ("rouge-1", "rouge-2", "rouge-l", "bleu-4")}
        assert score(pair["predict"], pair["label"]).to_dict() == pytest.approx(expected, abs=1e-4)


def test_a_one_character_answer_scores_as_the_original_says() -> None:
    assert score("好", "好").to_dict() == {"rouge-1": 100.0, "rouge-2": 0.0, "rouge-l": 100.0, "bleu-4": 35.3553}


def test_answers_with_nothing_in_common_score_0() -> None:
    scores = score("猫", "狗")
    assert (scores.rouge_1, scores.rouge_2, scores.rouge_l, scores.bleu_4) == (0, 0, 0, 0)
    assert scores.empty_predictions == 0


@pytest.mark.parametrize("prediction", ["", "  ", "\n\n"])
def test_an_empty_answer_scores_0_and_is_flagged(prediction: str) -> None:
    assert score(prediction, README_REFERENCE) == Scores(0.0, 0.0, 0.0, 0.0, empty_predictions=1)


def test_means_count_empty_answers() -> None:
    mean = mean_scores([score("好", "好"), score("", "好")])
    assert mean.rouge_1 == 50.0
    assert mean.empty_predictions == 1


def test_the_mean_of_nothing_is_0() -> None:
    assert mean_scores([]) == Scores(0.0, 0.0, 0.0, 0.0)
