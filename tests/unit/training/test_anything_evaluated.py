"""Whatever lies where an evaluation keeps its files, or is handed to one as questions: it is shown, skipped or refused.

Each property is tried on what hypothesis invents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventions import GARBAGE, JSON, NUMBERS, SCALARS, TEXTS, in_a_sentence, placed, places_in, tried

from app.evaluation.service import EvaluationService
from app.text.languages import Speech
from app.views.evaluation import progress_html, rows_html, scores_html
from training.comparison.place import (
    PROGRESS_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    TITLE_FILE,
    ComparisonPlace,
    ComparisonStore,
    Status,
)
from training.comparison.report import comparison_page
from training.comparison.request import ComparisonRequest
from training.comparison.result import Answered, ComparedRow, Comparison, Contestant, GeneralRow, Kept, as_csv
from training.evaluation.answering import Answer
from training.evaluation.journal import Journal
from training.keep.questions import read_answers
from training.probes.attributes import read_attributes
from training.probes.choices import is_choice_file, read_choices
from training.probes.findings import (
    Bias,
    ChoiceRow,
    Choices,
    ChoiceScore,
    ChoiceSubject,
    PairRow,
    PairScore,
    PairSummary,
)
from training.probes.intervals import Interval
from training.runs.layout import BASE_ANSWERS_FILE, PINS_FILE
from training.runs.pins import MOST_PINS, read_pins, write_pins
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings

REQUEST = ComparisonRequest(values={"max_predict_samples": 3}, checkpoints=("a",), file="rows.json")
FIGURE = Interval(value=0.5, low=0.25, high=0.75)
CHOICE = ChoiceScore(right=1, accuracy=FIGURE, letters=0.5)
SCORES = {"rouge-1": 30.0, "rouge-2": 10.0, "rouge-l": 20.0, "bleu-4": 5.0}
GROUPS = ("she", "he")
RESULT = Comparison(
    model="demo",
    file="rows.json",
    general_file="general.json",
    finished_at="2026-01-01T00:00:00+00:00",
    seconds=2.0,
    contestants=(
        Contestant(name="", checkpoint=None, scores=SCORES, kept=Kept(likeness=100.0, unchanged=1, right=0)),
        Contestant(
            name="a / 4",
            checkpoint="a",
            scores=SCORES,
            kept=Kept(likeness=60.0, unchanged=0, right=0, divergence=0.5),
        ),
    ),
    rows=(
        ComparedRow(
            number=1,
            prompt="p",
            history=(("q", "a"),),
            reference="r",
            answers=tuple(Answered(text=text, is_cut=False, rouge_l=1.0, bleu_4=2.0) for text in "xy"),
        ),
    ),
    general=(GeneralRow(question="q", expected="e", answers=("x", "y")),),
    choices=Choices(
        file="choices.json",
        rows=(ChoiceRow(subject="s", question="q", answer="A", shares=((0.4, 0.2, 0.2, 0.2),) * 2),),
        total=ChoiceSubject(name="", questions=1, scores=(CHOICE,) * 2),
        subjects=(ChoiceSubject(name="s", questions=1, scores=(CHOICE,) * 2),),
    ),
    bias=Bias(
        file="bias.json",
        rows=(PairRow(template=0, attribute="n", groups=GROUPS, measure="answer", prompts=GROUPS, differences=(1, 2)),),
        summaries=(
            PairSummary(
                attribute="n",
                groups=GROUPS,
                measure="likelihood",
                templates=1,
                pairs=1,
                scores=(PairScore(leaning=FIGURE, size=FIGURE, change=None),) * 2,
            ),
        ),
    ),
).model_dump(mode="json")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> ComparisonPlace:
    return ComparisonStore(tmp_path_factory.mktemp("output")).create(REQUEST)


def show(place: ComparisonPlace) -> None:
    """All that the page asks of an evaluation."""
    unused: Any = None
    service = EvaluationService(ComparisonStore(place.path.parent.parent), unused, unused, unused, lambda: {})
    assert list(service.titles()) == [place.name]
    view = service.view(place.name)
    for language in ("en", "zh"):
        speech = Speech(language)
        shown = [progress_html(view, speech)]
        if view.result is not None:
            shown.append(scores_html(place.name, view.result, ["rows.csv"], speech, may_change=True))
            last = len(view.result.contestants) - 1
            for listed, order in (("all", "by_gain_down"), ("worst", "by_number"), ("improved", "by_score_up")):
                shown.append(rows_html(view.result, last, listed, order, "", speech))
        "".join((view.title, *shown)).encode()  # else no page could send it


@tried
@given(path=st.sampled_from(places_in(RESULT)), value=JSON | NUMBERS, also=st.sampled_from(places_in(RESULT)))
def test_any_value_in_a_result_is_shown_or_skipped(
    place: ComparisonPlace, path: tuple[str | int, ...], value: Any, also: tuple[str | int, ...]
) -> None:
    place.set_progress(place.progress().model_copy(update={"status": Status.FINISHED}))
    content = placed(RESULT, path, value)
    if path[: len(also)] != also[: len(path)]:
        content = placed(content, also, value)
    (place.path / RESULT_FILE).write_text(json.dumps(content), encoding="utf-8")
    show(place)
    result = place.result()
    if result is not None:
        as_csv(result).encode()
        comparison_page(result, language="zh", stylesheet="").encode()


STATES = st.sampled_from(["starting", "running", "finished", "stopped", "failed", "interrupted"])
PROGRESS = st.fixed_dictionaries(
    {"status": STATES | SCALARS},
    optional=dict.fromkeys(("changed_at", "done", "total", "rate", "message_en", "message_zh"), NUMBERS | SCALARS),
)


@tried
@given(progress=PROGRESS.map(json.dumps).map(str.encode) | GARBAGE, title=GARBAGE | TEXTS)
def test_any_progress_and_any_title_are_shown(place: ComparisonPlace, progress: bytes, title: bytes | str) -> None:
    (place.path / RESULT_FILE).unlink(missing_ok=True)
    (place.path / PROGRESS_FILE).write_bytes(progress)
    if isinstance(title, str):
        in_a_sentence(lambda: place.set_title(title))
    else:
        (place.path / TITLE_FILE).write_bytes(title)
    show(place)


@tried
@given(content=GARBAGE | st.dictionaries(st.sampled_from([*ComparisonRequest.model_fields]), JSON).map(json.dumps))
def test_any_request_is_read_or_refused(place: ComparisonPlace, content: bytes | str) -> None:
    file = place.path / REQUEST_FILE
    before = file.read_bytes()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        show(place)
        request = in_a_sentence(place.request)
        if request is not None:
            in_a_sentence(request.settings)
    finally:
        file.write_bytes(before)


LINES = st.builds(
    lambda row, answers: json.dumps({"evaluation": "mine", "row": row, "answers": answers}).encode(),
    st.integers(-2, 5) | SCALARS,
    st.lists(st.tuples(TEXTS, st.booleans()), min_size=2, max_size=2) | JSON,
)


@tried
@given(
    head=st.sampled_from([b'{"evaluation": "mine"}', b'{"evaluation": "another"}']) | GARBAGE,
    lines=st.lists(LINES | GARBAGE, max_size=4),
)
def test_any_journal_gives_whole_answers_of_its_own_evaluation(tmp_path: Path, head: bytes, lines: list[bytes]) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b"\n".join((head, *lines)))
    journal = Journal(file, "mine", 2)
    found = journal.begin(3)
    assert set(found) <= {0, 1, 2}
    assert all(isinstance(answer, Answer) for answers in found.values() for answer in answers)
    journal.append(1, [Answer("x", False), Answer("y", True)])
    assert Journal(file, "mine", 2).begin(3) == {**found, 1: [Answer("x", False), Answer("y", True)]}


# Files that an evaluation is given

NAMED_GROUPS = st.dictionaries(
    TEXTS | st.sampled_from("ab"), st.lists(TEXTS | st.sampled_from("ab"), max_size=2), max_size=3
)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "attributes": st.lists(
            st.fixed_dictionaries({"name": TEXTS | st.just("n"), "groups": NAMED_GROUPS | JSON}), max_size=2
        )
    },
    optional={
        "templates": st.lists(
            st.fixed_dictionaries(
                {"prompt": st.sampled_from(["{n}", "{n} {m}", "{", "{n}{n}", "{}"]) | TEXTS},
                optional={"answers": st.lists(TEXTS | st.just("{n}"), max_size=2) | SCALARS},
            ),
            max_size=2,
        )
        | JSON
    },
)


@tried
@given(content=ATTRIBUTES.map(json.dumps).map(str.encode) | GARBAGE, needs_templates=st.booleans())
def test_any_file_of_attributes_makes_pairs_or_is_refused(
    tmp_path: Path, content: bytes, needs_templates: bool
) -> None:
    file = tmp_path / "attributes.json"
    file.write_bytes(content)
    found = in_a_sentence(lambda: read_attributes(file, needs_templates=needs_templates))
    for pair in found.pairs() if found is not None else ():
        assert all(side.prompt and all(side.answers) for side in pair.sides)


CHOICES = st.lists(
    st.dictionaries(st.sampled_from(["question", "A", "B", "C", "D", "answer", "subject"]), SCALARS | st.just("A")),
    max_size=3,
)


@tried
@given(
    content=CHOICES.map(json.dumps).map(str.encode) | GARBAGE | st.text(max_size=40).map(str.encode),
    suffix=st.sampled_from([".json", ".jsonl", ".csv"]),
    skip=st.booleans(),
)
def test_any_file_of_choices_asks_whole_questions_or_is_refused(
    tmp_path: Path, content: bytes, suffix: str, skip: bool
) -> None:
    file = tmp_path / f"choices{suffix}"
    if suffix == ".csv":
        content = b"question,A,B,C,D,answer\n" + content
    file.write_bytes(content)
    is_choice_file(file)
    for question in in_a_sentence(lambda: read_choices(file, skip_bad_rows=skip)) or ():
        assert question.question and all(question.options) and 0 <= question.answer < 4
        question.prompt().encode()


# Pins, and what a run keeps of the base


def run_in(directory: Path) -> Run:
    """The one run there; a test tries many things with it."""
    store = RunStore(directory)
    return next(iter(store.list()), None) or store.create(TrainingSettings(), "run")


@tried
@given(content=GARBAGE | st.fixed_dictionaries({"prompts": st.lists(TEXTS | SCALARS) | JSON}).map(json.dumps))
def test_any_file_of_pins_and_of_base_answers_is_read_or_passed_over(tmp_path: Path, content: bytes | str) -> None:
    run = run_in(tmp_path)
    for name in (PINS_FILE, BASE_ANSWERS_FILE):
        (run.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    pins = read_pins(run)
    assert len(pins) <= MOST_PINS and all(isinstance(pin, str) for pin in pins)
    "".join(pins).encode()
    assert read_answers(run.path) is None or read_answers(run.path)


@tried
@given(prompts=st.lists(TEXTS, max_size=7))
def test_whatever_is_pinned_is_kept_or_refused(tmp_path: Path, prompts: list[str]) -> None:
    run = run_in(tmp_path)
    (run.path / PINS_FILE).unlink(missing_ok=True)
    in_a_sentence(lambda: write_pins(run, prompts))
    assert set(read_pins(run)) <= {prompt.strip() for prompt in prompts}
