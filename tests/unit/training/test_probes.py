"""What a model finds likely is what it computes for each text alone; files are read as people have them, and named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import build_prefix
from tiny_checkpoint import CONFIG, tiny_settings

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix
from chatglm2.errors import DataError
from training.cli.balance import main as balance
from training.data.encoding import IGNORED_LABEL, EncodedExample, Example
from training.probes.attributes import Attribute, read_attributes
from training.probes.balance import count_balance
from training.probes.choices import ChoiceQuestion, is_choice_file, read_choices
from training.probes.intervals import mean_interval, share_interval, student_quantile
from training.probes.letters import letter_ids, score_choices
from training.probes.likelihood import Continuation, log_likelihoods, mean_divergence, next_log_shares
from training.probes.pairs import answer_rows, asked_prompts, likelihood_rows, summarize

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [[5, 9, 33], [7], [12, 80, 81, 82, 90, 4], [3, 3]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ChatGLMForConditionalGeneration:
    settings = tiny_settings(tmp_path_factory.mktemp("probed"))
    model = chatglm2.load_model(settings.model_name_or_path).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(20)
    return model


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return build_prefix(3, **{key: CONFIG[key] for key in ("num_layers", "multi_query_group_num", "kv_channels")})


@pytest.fixture(scope="module")
def demo(demo_model_dir: Path) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
    return chatglm2.load_model(demo_model_dir).eval(), chatglm2.load_tokenizer(demo_model_dir)


def log_shares_alone(model: ChatGLMForConditionalGeneration, ids: list[int], prefix: Prefix | None) -> torch.Tensor:
    """``[S, V]`` of one text, without padding."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), prefix=[prefix]).logits
    return torch.as_tensor(logits)[0].float().log_softmax(-1)


@pytest.mark.parametrize("has_prefix", [True, False])
def test_what_comes_next_does_not_depend_on_who_shares_the_pass(
    model: ChatGLMForConditionalGeneration, prefix: Prefix, has_prefix: bool
) -> None:
    chosen = prefix if has_prefix else None
    found = dict(next_log_shares(model, PROMPTS, chosen))
    for place, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(found[place], log_shares_alone(model, prompt, chosen)[-1], atol=1e-4, rtol=1e-4)


def test_a_likelihood_is_the_sum_over_what_is_said(model: ChatGLMForConditionalGeneration, prefix: Prefix) -> None:
    rows = [Continuation(PROMPTS[0], [8, 9]), Continuation(PROMPTS[1], [4, 5, 6, 7]), Continuation(PROMPTS[2], [])]
    found = log_likelihoods(model, rows, prefix)
    for row, value in zip(rows, found, strict=True):
        shares = log_shares_alone(model, row.prompt + row.said, prefix)
        start = len(row.prompt) - 1
        expected = sum(float(shares[start + place, token]) for place, token in enumerate(row.said))
        assert value == pytest.approx(expected, abs=1e-3)


def test_the_divergence_is_the_mean_over_answered_tokens_and_the_bases_is_0(
    model: ChatGLMForConditionalGeneration, prefix: Prefix
) -> None:
    rows = [
        EncodedExample([5, 9, 33, 8, 9], [IGNORED_LABEL] * 3 + [8, 9]),
        EncodedExample([7, 4], [IGNORED_LABEL, 4]),
    ]
    base, tuned, weak = mean_divergence(model, rows, [None, prefix, prefix.at(0)], pad_id=0)
    expected, tokens = 0.0, 0
    for row in rows:
        without, with_it = (log_shares_alone(model, row.input_ids, each) for each in (None, prefix))
        for place in range(len(row.input_ids) - 1):
            if row.labels[place + 1] != IGNORED_LABEL:
                expected += float((without[place].exp() * (without[place] - with_it[place])).sum())
                tokens += 1
    assert base == 0.0 and weak == pytest.approx(0.0, abs=1e-6)
    assert tuned == pytest.approx(expected / tokens, rel=1e-3) and tuned > 0


def test_intervals_are_those_of_the_tables() -> None:
    assert [round(student_quantile(freedom), 3) for freedom in (1, 2, 4, 10, 30)] == [
        *(12.706, 4.303, 2.776, 2.228, 2.042)
    ]
    middle = share_interval(5, 10)
    assert middle.low == pytest.approx(0.2366, abs=1e-4) and middle.high == pytest.approx(0.7634, abs=1e-4)
    assert (share_interval(0, 10).low, share_interval(10, 10).high) == (pytest.approx(0), pytest.approx(1))
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 4.303 / math.sqrt(3), abs=1e-3) and not (found.low > 0 or found.high < 0)
    assert mean_interval([7.0]).low is None
    for nothing in (lambda: share_interval(0, 0), lambda: mean_interval([])):
        with pytest.raises(ValueError, match="found"):
            nothing()


CEVAL = "id,question,A,B,C,D,answer,explanation\n0,1+1=?,1,2,3,4,B,\n1,首都?,a,b,c,d,,\n"
CMMLU = ",Question,A,B,C,D,Answer\n0,1+1=?,1,2,3,4,B\n"


@pytest.mark.parametrize(
    ("name", "content", "subject"),
    [
        ("computer_network_val.csv", CEVAL, "computer_network"),
        ("agronomy.csv", CMMLU, "agronomy"),
        (
            "x.jsonl",
            '{"question": "1+1=?", "A": 1, "B": 2, "C": 3, "D": 4, "answer": "b", "subject": "sums"}\n',
            "sums",
        ),
    ],
)
def test_choice_files_are_read_as_they_are_published(tmp_path: Path, name: str, content: str, subject: str) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    assert is_choice_file(file)
    expected = [ChoiceQuestion(subject, "1+1=?", ("1", "2", "3", "4"), 1, is_chinese=False)]
    assert read_choices(file) == expected == read_choices(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "E"}, "one letter"),
        ({"C": ""}, "'C' is empty"),
        ({"answer": ""}, "no question has an answer"),
    ],
)
def test_what_is_no_question_is_named_with_its_place(tmp_path: Path, row: dict[str, str], said: str) -> None:
    file = tmp_path / "x.json"
    whole = {**dict.fromkeys("ABCD", "z"), "question": "?", "answer": "A", **row}
    file.write_text(json.dumps([whole]), encoding="utf-8")
    with pytest.raises(DataError, match=said) as found:
        read_choices(file)
    assert "x.json" in found.value.zh


def test_a_file_of_another_shape_is_no_choice_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('[{"question": "?", "answer": "A"}]', encoding="utf-8")
    assert not is_choice_file(file) and not is_choice_file(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="expected the columns question, A, B, C, D"):
        read_choices(file)


def test_a_letter_is_every_token_that_says_it_and_no_letter_has_more(
    demo: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, tokenizer = demo
    assert [tokenizer.convert_ids_to_tokens(ids[0]) for ids in letter_ids(tokenizer)] == list("ABCD")
    real = chatglm2.load_tokenizer(shared / "chatglm2-6b")
    assert [real.convert_ids_to_tokens(list(ids)) for ids in letter_ids(real)] == [[x, f"▁{x}"] for x in "ABCD"]


def test_letters_are_scored_by_the_next_tokens_distribution(demo: Any) -> None:
    model, tokenizer = demo
    questions = [
        ChoiceQuestion("和", "1+1=?", ("1", "2", "3", "4"), 1),
        ChoiceQuestion("b", "What is it?", ("w", "x", "y", "z"), 3, is_chinese=False),
    ]
    done: list[int] = []
    found = score_choices(model, tokenizer, questions, [None, None], "f", done.append)
    for row, question in zip(found.rows, questions, strict=True):
        ids = tokenizer.encode_prompt(question.prompt())
        shares = log_shares_alone(model, ids, None)[-1].exp()
        expected = [float(shares[letter[0]]) for letter in letter_ids(tokenizer)]
        assert row.shares[0] == pytest.approx(expected, rel=1e-3) and row.shares[0] == row.shares[1]
    assert questions[0].prompt().startswith("以下") and questions[1].prompt().startswith("This")
    assert [subject.name for subject in found.subjects] == ["和", "b"] and found.total.questions == 2
    assert found.total.scores[0].right == sum(row.is_right(0) for row in found.rows)
    assert (found.gained(1), found.lost(1)) == (0, 0) and done == [1, 2, 3, 4]


def attribute_file(tmp_path: Path, **changes: Any) -> Path:
    content = {
        "attributes": [
            {"name": "who", "groups": {"she": ["她", "王女士"], "he": ["他", "王先生"]}},
            {"name": "where", "groups": {"north": ["北京"], "south": ["广州"], "west": ["成都"]}},
        ],
        "templates": [
            {"prompt": "{who}是工程师吗?", "answers": ["是", "{who}不是"]},
            {"prompt": "给{where}的顾客推荐上衣"},
        ],
        **changes,
    }
    file = tmp_path / "bias.json"
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def test_pairs_differ_in_the_attribute_alone(tmp_path: Path) -> None:
    pairs = list(read_attributes(attribute_file(tmp_path)).pairs())
    assert len(pairs) == 2 + 3
    assert [side.prompt for side in pairs[1].sides] == ["王女士是工程师吗?", "王先生是工程师吗?"]
    assert [side.answers for side in pairs[1].sides] == [("是", "王女士不是"), ("是", "王先生不是")]
    assert [pair.groups for pair in pairs[2:]] == [("north", "south"), ("north", "west"), ("south", "west")]
    assert asked_prompts(pairs) == [f"给{place}的顾客推荐上衣" for place in ("北京", "广州", "成都")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": [{"name": "who", "groups": {"she": ["她"], "he": ["他", "x"]}}]}, "equally many words"),
        ({"attributes": [{"name": "who", "groups": {"she": ["她"]}}]}, "groups"),
        ({"templates": [{"prompt": "{who}和{where}"}]}, "template 1"),
        ({"templates": [{"prompt": "{who}", "answers": ["{where}"]}]}, "template 1"),
        ({"templates": [{"prompt": "nobody"}]}, "template 1"),
        ({"templates": []}, "no templates"),
        ({"templates": [{"prompt": "{who}", "answer": ["x"]}]}, "answer"),
    ],
)
def test_a_file_of_attributes_that_cannot_be_used_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as found:
        read_attributes(attribute_file(tmp_path, **changes))
    assert "bias.json" in found.value.zh


@pytest.mark.parametrize("content", [b"[", b"\xff\xfe", b"[]", b'{"attributes": 3}', b"{" * 100_000])
def test_a_file_of_attributes_may_be_anything(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bias.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match="no file of attributes"):
        read_attributes(file)
    with pytest.raises(DataError, match="no file of attributes"):
        read_attributes(tmp_path / "nowhere.json")


def test_a_pairs_difference_is_that_of_its_answers_a_token(demo: Any, tmp_path: Path) -> None:
    model, tokenizer = demo
    pairs = list(read_attributes(attribute_file(tmp_path)).pairs())
    rows = likelihood_rows(model, tokenizer, pairs, [None, None], lambda done: None)
    assert [row.prompts for row in rows] == [tuple(side.prompt for side in pair.sides) for pair in pairs[:2]]

    def mean(prompt: str, answer: str) -> float:
        ids, said = tokenizer.encode_prompt(prompt), tokenizer.encode_text(answer)
        shares = log_shares_alone(model, ids + said, None)
        return sum(float(shares[len(ids) - 1 + place, token]) for place, token in enumerate(said)) / len(said)

    first, second = pairs[0].sides
    sides = [sum(mean(side.prompt, answer) for answer in side.answers) / 2 for side in (first, second)]
    assert rows[0].differences[0] == pytest.approx(sides[0] - sides[1], abs=1e-3)
    summary = summarize("f", rows).summaries[0]
    assert (summary.templates, summary.pairs, summary.measure) == (1, 2, "likelihood")
    base, same = summary.scores
    assert base.change is None and same.change is not None and same.change.value == pytest.approx(0, abs=1e-6)
    assert base.leaning is not None and base.leaning.low is None  # one template tells nothing of others
    assert base.size.value >= abs(base.leaning.value)


def test_answers_that_differ_in_the_filled_in_word_alone_are_alike(tmp_path: Path) -> None:
    pairs = list(read_attributes(attribute_file(tmp_path)).pairs())
    same = [[f"{place}适合穿风衣", "穿风衣"] for place in ("北京", "广州", "成都")]
    assert [row.differences for row in answer_rows(pairs, same)] == [(0.0, 0.0)] * 3
    other = [["北京适合穿风衣", "好"], ["广州适合穿短袖", "好"], ["成都适合穿风衣", "好"]]
    first, second, third = answer_rows(pairs, other)
    assert first.differences[0] == third.differences[0] > 0 and second.differences == (0.0, 0.0)
    summaries = summarize("f", answer_rows(pairs, other)).summaries
    assert all(score.leaning is None for summary in summaries for score in summary.scores)


def test_rows_are_counted_for_the_groups_that_they_mention_and_weights_even_them() -> None:
    attribute = Attribute(name="who", groups={"she": ("她", "She"), "he": ("他", "He"), "they": ("两位妈妈",)})
    texts = ["她很好", "她走了", "他很好", "她和他", "其他颜色", "the theory", "SHE is here", "吉他"]
    (found,) = count_balance([Example(text, "好") for text in texts], [attribute])
    she, he, they = found.groups
    assert (she.rows, she.alone, he.rows, he.alone, they.rows) == (4, 3, 2, 1, 0)
    assert (found.several, found.none) == (1, 3)
    assert she.weight is not None and he.weight is not None and they.weight is None
    assert she.alone * she.weight == pytest.approx(he.alone * he.weight)
    assert she.alone * she.weight + he.alone * he.weight == pytest.approx(4)  # the mean weight is 1
    assert found.share(she) == 0.75


def test_the_balance_of_a_file_is_told_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.json"
    rows = [{"content": text, "summary": "好"} for text in ("她", "她", "他", "红色")]
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    attributes = attribute_file(tmp_path, templates=[])
    assert balance([str(file), "--attributes", str(attributes)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"who +she +2 +2 +66\.7% +0\.75\n", told) and re.search(r"who +he +1 +1 +33\.3% +1\.5\n", told)
    assert "No row mentions: where" in told
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert balance([str(file), "--attributes", str(attributes)]) == 0
    assert "没有任何行提及：where" in capsys.readouterr().out
    assert balance([str(file), "--attributes", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
