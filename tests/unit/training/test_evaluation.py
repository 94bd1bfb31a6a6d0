"""Answers are those of ``generate()``, whoever shares the batch; scores, files and reports say what they are."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import build_prefix
from tiny_checkpoint import CONFIG, tiny_settings

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer, Prefix, PrefixEncoder, save_prefix
from chatglm2.errors import DataError, PrefixError, RunError
from training.cli import terminal as terminal_module
from training.cli.parser import parse_command
from training.cli.terminal import ProgressLine, score_table
from training.cli.train import evaluation_request, main
from training.data.encoding import Example, ExampleEncoder
from training.evaluation import answering, job
from training.evaluation.answering import Answer, answer_examples, reference_text
from training.evaluation.job import results, run_evaluations
from training.evaluation.metrics import Scores, score
from training.evaluation.plan import plan_evaluations
from training.evaluation.reporting.report import SHOWN_EXTREMES, SHOWN_ROWS, WORDS, report_data, report_page
from training.evaluation.request import EvaluationRequest
from training.evaluation.scoring import (
    Contender,
    Evaluation,
    ScoredAnswer,
    ScoredRow,
    mean_loss,
    score_rows,
    score_sample,
)
from training.evaluation.strengths import StrengthPoint, StrengthSweep, read_strengths, sweep_strengths
from training.runs.checkpoints import STRENGTH_FILE, find_checkpoints
from training.runs.store import RunStore
from training.settings.samples import SAMPLE_DEV_FILE
from training.settings.train import TrainingSettings

EXAMPLES = [
    Example("类型#上衣*颜色#红色", "这件红色上衣很百搭。"),
    Example("你好", "你好"),
    Example("类型#裤", "黑色裤。", (("你好", "你好"),)),
    Example("hello", "world 01"),
    Example("颜色#蓝", "蓝绿裙。"),
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(
        tmp_path_factory.mktemp("evaluation"), max_source_length=64, max_target_length=8, do_sample=False
    )


@pytest.fixture(scope="module")
def model(settings: TrainingSettings) -> ChatGLMForConditionalGeneration:
    model = chatglm2.load_model(settings.model_name_or_path)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for the answers to differ from token to token
            if parameter.dim() == 2:
                parameter.mul_(20)
    return model


@pytest.fixture(scope="module")
def tokenizer(settings: TrainingSettings) -> ChatGLMTokenizer:
    return chatglm2.load_tokenizer(settings.model_name_or_path)


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return build_prefix(3, **{key: CONFIG[key] for key in ("num_layers", "multi_query_group_num", "kv_channels")})


@pytest.fixture
def answers(model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings) -> Any:
    """Answers in the order of the examples, with changed settings."""

    def answers(prefixes: Sequence[Prefix | None] = (None,), **changes: Any) -> list[list[Answer]]:
        found = dict(answer_examples(model, tokenizer, EXAMPLES, replace(settings, **changes), prefixes))
        return [found[index] for index in range(len(EXAMPLES))]

    return answers


def generated(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    settings: TrainingSettings,
    example: Example,
    prefix: Prefix | None,
    **options: Any,
) -> str:
    """The oracle: transformers' own generation of one row, with the original's budget."""
    ids = torch.tensor([ExampleEncoder(tokenizer, settings).encode_prompt(example)])
    budget = settings.max_source_length + settings.max_target_length + 1
    output: Any = model.generate(ids, prefix=prefix, max_length=budget, do_sample=False, **options)
    return tokenizer.decode_ids(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("beams", [1, 3])
def test_greedy_and_beam_answers_are_those_of_generate(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    settings: TrainingSettings,
    prefix: Prefix,
    answers: Any,
    beams: int,
) -> None:
    found = answers((prefix, None), num_beams=beams)
    assert len({answer.text for pair in found for answer in pair}) > len(EXAMPLES)
    for example, (tuned, base) in zip(EXAMPLES, found, strict=True):
        assert tuned.text == generated(model, tokenizer, settings, example, prefix, num_beams=beams)
        assert base.text == generated(model, tokenizer, settings, example, None, num_beams=beams)


def test_beams_are_ranked_as_before_where_that_is_asked_for(
    model: ChatGLMForConditionalGeneration, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[int] = []

    @contextlib.contextmanager
    def note(_: object, end: int) -> Iterator[None]:
        ranked.append(end)
        yield

    monkeypatch.setattr(answering, "counting_prompts", note)
    answers(num_beams=2)
    assert not ranked
    answers(num_beams=2, compat="original")
    assert set(ranked) == {model.config.eos_token_id}


@pytest.mark.parametrize("changes", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_an_answer_does_not_depend_on_who_shares_its_batch(
    answers: Any, prefix: Prefix, changes: dict[str, Any]
) -> None:
    one, many = (answers((prefix, None), per_device_eval_batch_size=size, **changes) for size in (1, 4))
    assert one == many


def test_a_seed_repeats_sampled_answers_and_another_one_changes_them(answers: Any) -> None:
    first, again, other = (answers(do_sample=True, seed=seed) for seed in (1, 1, 200))
    assert first == again != other


def test_an_answer_ends_where_prompt_and_answer_reach_the_originals_budget(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    never_ends = replace(settings, max_source_length=32, max_target_length=4)
    eos, model.config.eos_token_id = model.config.eos_token_id, None
    try:
        ((_, (answer,)),) = answer_examples(model, tokenizer, EXAMPLES[1:2], never_ends)
    finally:
        model.config.eos_token_id = eos
    assert answer.is_cut


def test_the_originals_way_counts_the_longest_prompt_for_all(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    widths = [len(ExampleEncoder(tokenizer, settings).encode_prompt(example)) for example in EXAMPLES]
    asked = replace(settings, compat="original", max_source_length=max(widths), max_target_length=4)
    eos, model.config.eos_token_id = model.config.eos_token_id, None
    try:
        found = [answer.text for _, (answer,) in answer_examples(model, tokenizer, EXAMPLES, asked)]
        free = [
            answer.text for _, (answer,) in answer_examples(model, tokenizer, EXAMPLES, replace(asked, compat=None))
        ]
    finally:
        model.config.eos_token_id = eos
    for width, counted, longer in zip(widths, found, free, strict=True):
        assert longer.startswith(counted.rstrip("\ufffd"))
        assert (len(longer) > len(counted)) == (width < max(widths))


def test_a_prompt_that_fills_the_model_is_refused_and_no_example_needs_no_answer(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    wide = replace(settings, max_source_length=500)
    with pytest.raises(DataError, match="--max_source_length below 256"):
        list(answer_examples(model, tokenizer, [Example("红" * 400, "白")], wide))
    assert not list(answer_examples(model, tokenizer, [], settings))


def test_the_base_answers_while_the_model_trains_a_prefix_of_its_own(
    settings: TrainingSettings, tokenizer: ChatGLMTokenizer, answers: Any, model: ChatGLMForConditionalGeneration
) -> None:
    expected = answers(num_beams=2), answers()
    losses = mean_loss(model, tokenizer, EXAMPLES, settings)
    model.prepare_prefix_tuning(4)
    model.train()
    try:
        assert (answers(num_beams=2), answers()) == expected
        assert mean_loss(model, tokenizer, EXAMPLES, settings) == pytest.approx(losses, rel=1e-6)
        assert model.training
    finally:
        model.eval()
        model.transformer.prefix_encoder = None


def test_references_are_cut_as_the_original_cuts_labels(
    tokenizer: ChatGLMTokenizer, settings: TrainingSettings
) -> None:
    example = Example("你好", "这件红色上衣很百搭，" * 8)
    ids = tokenizer.encode(example.response, truncation=True, max_length=10)  # [gMASK] and sop counted
    assert reference_text(tokenizer, example, replace(settings, val_max_target_length=10)) == tokenizer.decode(ids)
    assert len(ids) == 10


def test_the_loss_is_the_mean_over_tokens_whatever_the_batch(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings, prefix: Prefix
) -> None:
    encoder = ExampleEncoder(tokenizer, settings)
    sums, counts = 0.0, 0
    for example in EXAMPLES:
        row = encoder.encode(example)
        labels = torch.tensor([row.labels])
        count = int((labels != -100).sum())
        with torch.no_grad():
            loss = model(torch.tensor([row.input_ids]), labels=labels, prefix=prefix).loss
        sums, counts = sums + float(loss) * count, counts + count
    for size in (1, 2, 5):
        asked = replace(settings, per_device_eval_batch_size=size)
        assert mean_loss(model, tokenizer, EXAMPLES, asked, prefix) == pytest.approx(sums / counts, rel=1e-5)


def test_rows_are_scored_and_a_sample_has_their_means(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, settings: TrainingSettings, prefix: Prefix
) -> None:
    rows = list(score_rows(model, tokenizer, EXAMPLES, settings, (prefix, None)))
    assert [row.index for row in rows] == list(range(len(EXAMPLES)))
    assert all(len(row.answers) == 2 for row in rows)
    scores = score_sample(model, tokenizer, EXAMPLES, settings, prefix)
    assert scores.rouge_l == pytest.approx(sum(row.answers[0].scores.rouge_l for row in rows) / len(rows))


# --- from a command to files -----------------------------------------------------------------------------------------


class Silence:
    """A watcher that remembers what it was told, and may have enough after some rows."""

    def __init__(self, enough: int | None = None) -> None:
        self.said: list[str] = []
        self.enough = enough

    def say(self, en: str, zh: str) -> None:
        assert en and zh
        self.said.append(en)

    def progress(self, done: int, total: int) -> None:
        if done == self.enough:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, model: ChatGLMForConditionalGeneration) -> Path:
    """A prefix of 3 tokens, in a run's checkpoint directory."""
    directory = tmp_path_factory.mktemp("run") / "checkpoint-5"
    directory.mkdir()
    config = copy.deepcopy(model.config)
    config.pre_seq_len = 3
    torch.manual_seed(3)
    save_prefix(PrefixEncoder(config).state_dict(), directory)
    return directory


@pytest.fixture
def words(settings: TrainingSettings, checkpoint: Path, tmp_path: Path) -> list[str]:
    """A command that evaluates the checkpoint on four rows."""
    rows = [{"content": item.prompt, "summary": item.response} for item in EXAMPLES[:4]]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([*rows, {"content": "x", "summary": ""}], ensure_ascii=False), encoding="utf-8")
    return [
        *("--model_name_or_path", settings.model_name_or_path, "--ptuning_checkpoint", str(checkpoint)),
        *("--test_file", str(file), "--validation_file", str(file), "--output_dir", str(tmp_path / "results")),
        *("--max_source_length", "64", "--max_target_length", "8", "--do_sample", "False"),
    ]


def asked(words: list[str]) -> EvaluationRequest:
    return evaluation_request(parse_command(words))


def evaluate(words: list[str], watcher: Silence | None = None, language: str = "en") -> dict[str, Path]:
    """Run a command's evaluations; its files by name."""
    plans = plan_evaluations(asked(words))
    for _ in run_evaluations(plans, watcher or Silence(), language):
        pass
    return {path.name: path for path in plans[0].output_dir.iterdir()}


def test_answers_are_written_in_the_originals_format(
    words: list[str], model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer
) -> None:
    watcher = Silence()
    files = evaluate(["--do_predict", *words], watcher)
    lines = files["generated_predictions.txt"].read_text(encoding="utf-8").splitlines()
    rows = json.loads(files["report.json"].read_text(encoding="utf-8"))["rows"]
    assert [line[: len('{"labels": "')] for line in lines] == ['{"labels": "'] * 4
    for line, row, example in zip(lines, rows, EXAMPLES, strict=False):
        answer = tokenizer.clean_up_tokenization(row["tuned"]["answer"]).strip()
        assert line == json.dumps({"labels": row["reference"], "predict": answer}, ensure_ascii=False)
        assert example.response.startswith(row["reference"])
    assert sorted(files) == sorted(
        ("all_results.json", "generated_predictions.txt", "predict_results.json", "report.html", "report.json")
    )
    assert any("1 rows have an empty prompt or answer" in sentence for sentence in watcher.said)


def test_results_have_the_originals_names_and_gather_in_one_file(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "all_results.json").write_text('{"train_loss": 1.5}')
    files = evaluate(["--do_eval", "--do_predict", *words])
    scores = ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "runtime", "samples", "samples_per_second")
    predict, evaluated, both = (
        json.loads(files[name].read_text())
        for name in ("predict_results.json", "eval_results.json", "all_results.json")
    )
    assert {f"predict_{name}" for name in scores} <= set(predict) and "predict_loss" not in predict
    assert {f"eval_{name}" for name in (*scores, "loss")} <= set(evaluated)
    assert both == {"train_loss": 1.5, **predict, **evaluated}
    assert predict["predict_samples"] == 4
    assert "eval_report.html" in files and "report.html" in files


def test_a_baseline_is_answered_too_and_the_report_tells_both(words: list[str]) -> None:
    files = evaluate(["--do_eval", "--baseline", *words])
    report = json.loads(files["eval_report.json"].read_text(encoding="utf-8"))
    tuned, base = report["scores"]["tuned"], report["scores"]["base"]
    assert report["difference"]["rouge-l"] == pytest.approx(tuned["rouge-l"] - base["rouge-l"], abs=1e-3)
    assert tuned["loss"] != base["loss"]
    assert report["prefix"]["length"] == 3
    row = report["rows"][0]
    assert row["tuned"]["answer"] != row["base"]["answer"]
    assert row["difference"]["bleu-4"] == pytest.approx(row["tuned"]["bleu-4"] - row["base"]["bleu-4"], abs=1e-3)
    page = files["eval_report.html"].read_text(encoding="utf-8")
    assert "Base model" in page and "Difference" in page


def test_without_a_prefix_the_model_itself_is_evaluated_and_a_line_says_so(words: list[str], checkpoint: Path) -> None:
    place = words.index("--ptuning_checkpoint")
    watcher = Silence()
    files = evaluate(["--do_predict", "--baseline", *words[:place], *words[place + 2 :]], watcher)
    assert list(json.loads(files["report.json"].read_text())["scores"]) == ["model"]
    assert "Difference" not in files["report.html"].read_text()
    assert any("without a prefix" in sentence for sentence in watcher.said)


@pytest.mark.parametrize(
    ("flags", "en", "zh"),
    [
        (["--pre_seq_len", "128"], ("128", "3 tokens"), "前缀长度是 3"),
        (["--prefix_projection"], ("--prefix_projection is True", "no projection"), "没有映射"),
        (["--test_file", "nowhere.json"], ("--test_file: there is no file",), "不存在"),
        (["--ptuning_checkpoint", "nowhere"], ("nowhere",), "无法读取"),
        (["--model_name_or_path", "nowhere"], ("nowhere",), "nowhere"),
    ],
)
def test_a_wrong_evaluation_gets_one_sentence_and_exit_code_2(
    words: list[str],
    flags: list[str],
    en: tuple[str, ...],
    zh: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for language, expected in (("C", en), ("zh_CN.UTF-8", (zh,))):
        monkeypatch.setenv("LC_ALL", language)
        assert main(["--do_predict", *words, *flags]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in last for part in expected), last


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_named_before_the_model_is_loaded(
    words: list[str], checkpoint: Path, content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint-5" / "prefix.safetensors"
    file.parent.mkdir()
    whole = (checkpoint / "prefix.safetensors").read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    watcher = Silence()
    with pytest.raises(PrefixError, match="checkpoint-5"):
        evaluate(["--do_predict", *words, "--ptuning_checkpoint", str(file.parent)], watcher)
    assert not [sentence for sentence in watcher.said if sentence.startswith("Model")]


def test_the_command_line_prints_the_scores_and_where_the_report_is(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["--do_predict", "--baseline", *words]) == 0
    output, progress = capsys.readouterr()
    assert "ROUGE-L" in output and "带前缀" in output and f"报告：{tmp_path / 'results' / 'report.html'}" in output
    assert "4/4" in progress
    assert '<html lang="zh-CN">' in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")


def test_an_interrupted_evaluation_keeps_its_answers_and_leaves_earlier_results_alone(
    words: list[str], tmp_path: Path
) -> None:
    files = evaluate(["--do_predict", *words])
    before = {name: path.read_bytes() for name, path in files.items()}
    with pytest.raises(KeyboardInterrupt):
        evaluate(["--do_predict", "--max_target_length", "4", *words], Silence(enough=2))
    partial = tmp_path / "results" / "predict_answers.partial.jsonl"
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 3  # whose they are, and two rows
    assert {name: path.read_bytes() for name, path in files.items()} == before
    assert partial.name not in evaluate(["--do_predict", *words])


@pytest.mark.parametrize("how", [["--do_sample", "True"], ["--num_beams", "2"], ["--baseline"]])
def test_a_killed_evaluation_goes_on_from_its_answers_and_ends_as_if_it_had_not_been(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    command = ["--do_predict", *words, *how]
    whole = evaluate(command)["report.json"].read_text(encoding="utf-8")

    class Killed(BaseException):
        """Nothing of the program sees a kill -9 coming."""

    watcher = Silence()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(watcher, "progress", lambda done, total: _raise(Killed()) if done == 2 else None)
        evaluate(command, watcher)
    partial = tmp_path / "results" / "predict_answers.partial.jsonl"
    with partial.open("a", encoding="utf-8") as file:
        file.write('{"row": 3, "answers": [["half a li')
    answer, asked = job.score_rows, []

    def counted(*args: Any) -> Iterator[ScoredRow]:
        for row in answer(*args):
            asked.append(row.index)
            yield row

    monkeypatch.setattr(job, "score_rows", counted)
    watcher = Silence()
    files = evaluate([*command, "--per_device_eval_batch_size", "1"], watcher)
    assert len(asked) == 2
    assert any(sentence.startswith("2 of 4 answers are there") for sentence in watcher.said)
    found, expected = json.loads(files["report.json"].read_text(encoding="utf-8")), json.loads(whole)
    assert found["rows"] == expected["rows"]
    assert found["scores"] == expected["scores"]
    assert partial.name not in files


@pytest.mark.parametrize("change", [["--seed", "7"], ["--max_target_length", "6"], "rows", "weights", "garbage"])
def test_answers_to_something_else_are_not_taken_over(
    words: list[str], tmp_path: Path, settings: TrainingSettings, change: list[str] | str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(["--do_predict", *words], Silence(enough=2))
    if change == "rows":
        rows = tmp_path / "rows.json"
        rows.write_text(rows.read_text(encoding="utf-8").replace("hello", "hullo"), encoding="utf-8")
    elif change == "weights":
        file = Path(settings.model_name_or_path) / "model.safetensors"
        os.utime(file, (1, 1))
    elif change == "garbage":
        (tmp_path / "results" / "predict_answers.partial.jsonl").write_bytes(b"\xff\x00[[[")
    watcher = Silence()
    evaluate(["--do_predict", *words, *(change if isinstance(change, list) else [])], watcher)
    assert not any("cut off" in sentence for sentence in watcher.said)


def _raise(error: BaseException) -> None:
    raise error


def test_a_disk_that_fills_up_leaves_every_earlier_file_as_it_was_and_the_scores_are_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = evaluate(["--do_predict", *words])
    before = {name: path.read_bytes() for name, path in files.items()}
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.runs.storage.os.fsync", full)
    watcher = Silence()
    with pytest.raises(RunError, match="no space left"):
        evaluate(["--do_predict", "--seed", "7", "--do_sample", "True", *words], watcher)
    assert "predict_rouge-l" in watcher.said[-1]
    directory = files["report.html"].parent
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert len(after.pop("predict_answers.partial.jsonl").splitlines()) == 5  # nothing need be answered again
    assert after == before


def test_results_keep_the_files_order_whatever_was_answered_first(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score_rows = job.score_rows
    monkeypatch.setattr(job, "score_rows", lambda *args: reversed(list(score_rows(*args))))
    rows = json.loads(evaluate(["--do_predict", *words])["report.json"].read_text(encoding="utf-8"))["rows"]
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 1


# --- what is evaluated where little is said --------------------------------------------------------------------------


def test_with_no_options_the_latest_checkpoint_is_compared_with_its_base_on_the_sample_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (untrained,) = plan_evaluations(asked(["--do_predict"]))
    assert untrained.checkpoint is None and not untrained.settings.baseline
    assert "no checkpoint in output/ yet" in untrained.notes[0][0]
    run = RunStore("output").create(TrainingSettings(), "mine")
    for step in (5, 40):
        run.checkpoint_path(step).mkdir()
        (run.checkpoint_path(step) / "prefix.safetensors").touch()
    RunStore("output").create(TrainingSettings(), "later-without-a-checkpoint")
    (plan,) = plan_evaluations(asked(["--do_predict"]))
    assert plan.checkpoint == Path("output/mine/checkpoint-40")
    assert plan.settings.baseline
    assert plan.file == SAMPLE_DEV_FILE
    assert plan.output_dir == Path("output/evaluation/mine-checkpoint-40")


def test_what_the_command_leaves_open_is_as_the_checkpoint_was_trained(
    settings: TrainingSettings, tmp_path: Path
) -> None:
    place = tmp_path / "checkpoint-2"
    place.mkdir()
    (place / "prefix.safetensors").touch()
    trained = replace(settings, source_prefix="答：", max_source_length=77, max_target_length=20, learning_rate=1e-3)
    metadata = {"settings": trained.to_dict(), "base_model": settings.model_name_or_path}
    (place / "prefix.json").write_text(json.dumps(metadata), encoding="utf-8")
    words = ["--do_predict", "--ptuning_checkpoint", str(place), "--max_target_length", "9"]
    (plan,) = plan_evaluations(asked([*words, "--test_file", settings.train_file]))
    found = plan.settings
    assert found.model_name_or_path == settings.model_name_or_path
    assert (found.source_prefix, found.max_source_length, found.max_target_length) == ("答：", 77, 9)
    assert found.learning_rate == TrainingSettings().learning_rate
    assert "--max_source_length 77" in plan.notes[0][0]
    with pytest.raises(RunError, match="Name a JSON, JSON lines or CSV file with --test_file"):
        plan_evaluations(asked(words))


def test_a_test_file_that_is_missing_is_replaced_by_the_validation_file_with_a_line(
    settings: TrainingSettings,
) -> None:
    words = ["--do_predict", "--model_name_or_path", settings.model_name_or_path]
    (plan,) = plan_evaluations(asked([*words, "--validation_file", settings.train_file]))
    assert plan.file == Path(settings.train_file)
    assert any("No --test_file" in en for en, _ in plan.notes)


@pytest.mark.parametrize("flags", [["--detach"], ["--test_file", "nowhere.json"]])
def test_what_could_not_be_evaluated_after_a_training_is_refused_before_it(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C")
    assert main(["--do_train", "--do_predict", *flags]) == 2
    assert flags[-1].strip("-") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- the report ------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\"'&</p><img src=x onerror=alert(2)>"


def made_up(
    settings: TrainingSettings, answers: Sequence[Sequence[str]], checkpoint: str = "checkpoint-1"
) -> Evaluation:
    """An evaluation of hostile rows with the given answers."""
    rows = tuple(
        ScoredRow(
            index,
            Example(HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),)),
            HOSTILE,
            tuple(ScoredAnswer(text, score(text, HOSTILE)) for text in texts),
        )
        for index, texts in enumerate(answers)
    )
    tuned = Contender(HOSTILE, Path(checkpoint), build_prefix(2), loss=1.0)
    contenders = (tuned, Contender(HOSTILE, loss=2.0))[: len(answers[0])]
    return Evaluation("predict", Path(HOSTILE), contenders, rows, settings, 2.0, datetime(2026, 1, 2, 3, 4))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_models_and_files_say_cannot_become_markup(settings: TrainingSettings, language: str) -> None:
    page = report_page(made_up(settings, [(HOSTILE, HOSTILE)], HOSTILE), language=language, stylesheet="")
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)" in page
    parser = TagBalance()
    parser.feed(page)
    assert not parser.open


class TagBalance(HTMLParser):
    """Every tag that is opened is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_an_empty_answer_scores_0_and_is_flagged(settings: TrainingSettings) -> None:
    evaluation = made_up(settings, [(" \n", "甲"), ("乙", "甲")])
    found = results(evaluation)
    assert found["predict_empty_predictions"] == 1
    data = report_data(evaluation)
    assert [row["tuned"]["empty"] for row in data["rows"]] == [True, False]
    assert data["rows"][0]["tuned"]["rouge-1"] == 0
    page = report_page(evaluation, language="en", stylesheet="")
    assert page.count('<mark class="empty">') == 2  # among the worst rows and among all
    assert "Empty answers" in page and "Empty answers" in score_table(evaluation, "en")


def test_the_report_says_everything_in_both_languages(settings: TrainingSettings) -> None:
    assert all(en and zh for en, zh in WORDS.values())
    assert all(en.count("{") == zh.count("{") for en, zh in WORDS.values())
    table = score_table(made_up(settings, [("甲", "乙")]), "zh")
    assert "差值" in table and "损失" in table


def test_a_long_report_shows_some_rows_and_its_data_has_all(settings: TrainingSettings) -> None:
    evaluation = made_up(settings, [("甲",)] * (SHOWN_ROWS + 5))
    page = report_page(evaluation, language="en", stylesheet="")
    assert page.count("<details") == SHOWN_ROWS + SHOWN_EXTREMES
    assert "report.json holds all" in page
    assert len(report_data(evaluation)["rows"]) == SHOWN_ROWS + 5


def test_a_pipe_gets_whole_lines_and_a_terminal_one_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal_module, "SECONDS_BETWEEN_CHANGES", 0)
    pipe, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    for stream in (pipe, terminal):
        line = ProgressLine(stream, "en")
        line.say("first", "先")
        for done in range(4):
            line.progress(done, 3)
    assert pipe.getvalue().count("\n") == 2 and "3/3" in pipe.getvalue() and "\r" not in pipe.getvalue()
    assert terminal.getvalue().count("\n") == 2 and terminal.getvalue().endswith("\n")
    assert terminal.getvalue().count("\r") == 2  # 2/3 in the place of 1/3, 3/3 in that of 2/3


# Strengths of a prefix


def sweep_of(*points: tuple[float, float, float]) -> StrengthSweep:
    """Points of strength, task score and what is kept."""
    return StrengthSweep(tuple(StrengthPoint(s, Scores(0, 0, task, 0), kept, 3) for s, task, kept in points), 12)


def test_a_sweep_begins_at_the_base_and_passes_the_prefix_itself(model, tokenizer, settings, prefix) -> None:
    strengths = [(strength, prefix.at(strength)) for strength in (0.0, 0.4, 1.0)]
    heard: list[tuple[int, int]] = []
    sweep = sweep_strengths(
        model, tokenizer, EXAMPLES, settings, strengths, ["你好", "hello"], lambda *counts: heard.append(counts)
    )
    base, _, full = sweep.points
    assert base.task == score_sample(model, tokenizer, EXAMPLES, settings)
    assert full.task == score_sample(model, tokenizer, EXAMPLES, settings, prefix)
    assert (base.kept, base.unchanged, sweep.questions) == (100.0, 2, 2)
    assert full.kept < 100
    assert heard == [(count, 7) for count in range(1, 8)]


def test_the_least_strength_that_does_the_task_is_proposed() -> None:
    assert sweep_of((0, 20.9, 100), (0.5, 26.8, 95), (0.75, 26.4, 78), (1, 26.9, 70)).proposed == 0.5
    assert sweep_of((0, 30, 100), (1, 30.1, 50)).proposed == 0, "what the prefix does not do needs no prefix"


@pytest.mark.parametrize(("text", "strengths"), [("1,0.5, 0", [0, 0.5, 1]), ("0，1，1", [0, 1])])
def test_strengths_are_read_as_people_list_them(text: str, strengths: list[float]) -> None:
    assert read_strengths(text) == strengths


def test_a_sweep_is_in_the_report_in_both_languages(settings: TrainingSettings) -> None:
    evaluation = replace(
        made_up(settings, [("a", "b")]), sweep=sweep_of((0, 20.9, 100), (0.5, 26.8, 95.25), (1, 26.9, 70))
    )
    for language, words in (("en", ("proposed", "10 of 12")), ("zh", ("建议", "10 / 12"))):
        page = report_page(evaluation, language=language, stylesheet="")
        assert page.count("<polyline") == 2 and "95.25" in page
        assert f"<mark>{words[0]}</mark>" in page
    found = report_data(evaluation)["strengths"]
    assert found["proposed"] == 0.5
    task = Scores(0, 0, 26.8, 0).to_dict()
    assert found["points"][1] == {"strength": 0.5, "task": task, "kept": 95.25, "unchanged": 3}
    assert results(evaluation)["predict_proposed_strength"] == 0.5


def test_strengths_on_the_command_line_are_answered_charted_and_checked_before_the_model_is_loaded(
    words: list[str],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    command = ["--do_predict", *words, "--output_dir", str(tmp_path / "out"), "--strengths"]
    for given, complaint in (("0,x", "list of numbers"), ("0,1.6", "found 1.6")):
        assert main([*command, given]) == 2
        assert complaint in capsys.readouterr().err
    assert main([*command, "0,1"]) == 0
    assert "12 of 12" in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [point["strength"] for point in data["strengths"]["points"]] == [0, 1]
    assert find_checkpoints(checkpoint)[0].proposed_strength == data["strengths"]["proposed"]
    (checkpoint / STRENGTH_FILE).unlink()
