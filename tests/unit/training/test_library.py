"""Cards of prefixes, what is handed on of one, and the shelf that they are found on."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from past_runs import write_past_run
from safetensors.torch import load_file, save_file

from chatglm2.errors import PrefixError, RunError
from chatglm2.model.prefix import TENSOR_NAMESPACE
from training.comparison.place import RESULT_FILE, ComparisonStore
from training.comparison.request import ComparisonRequest
from training.comparison.result import Comparison, Contestant, Kept
from training.comparison.scores import SCORES_FILE, CheckpointScores, keep_scores, read_scores
from training.library.archive import pack, take_zip, unpack
from training.library.base import base_fingerprint, base_name
from training.library.bundle import LIMITS, write_bundle
from training.library.card import CARD_FILE, OURS, Card, CardError, Facts, parse_card, read_card, write_card
from training.library.entry import ORIGIN_FILE, Descriptions, Entry, Origin, describe, tags_of
from training.library.facts import gather_facts
from training.library.shelf import Shelf, place_name
from training.runs.checkpoints import CheckpointInfo, read_checkpoint
from training.runs.store import Run

EMBEDDING = f"{TENSOR_NAMESPACE}embedding.weight"
NASTY = ("yes", "1.0", "null", "a: b", "- x", "#1", "'\"", "🎈 说明", "---", "{x}", "|")


@pytest.fixture
def run(tmp_path: Path, demo_model_dir: Path) -> Run:
    return write_past_run(tmp_path / "output", demo_model_dir, "adverts")


@pytest.fixture
def info(run: Run) -> CheckpointInfo:
    return run.checkpoints()[-1]


@pytest.fixture
def shelf(run: Run) -> Shelf:
    return Shelf(run.path.parent)


def card(**values: object) -> Card:
    return Card.checked(values)


# Cards


@pytest.mark.parametrize("text", NASTY)
def test_a_card_reads_as_it_was_written_and_huggingface_hub_reads_it_too(text: str, tmp_path: Path) -> None:
    written = card(
        name=text, tags=[text, "formal"], license=text, notes=f"{text}\n\n# {text}\n---\nx", facts={"step": 3}
    )
    write_card(tmp_path, written)
    assert read_card(tmp_path) == written
    theirs = ModelCard.load(tmp_path / CARD_FILE)
    assert theirs.data.to_dict()["tags"] == ["chatglm2", "p-tuning-v2", text, "formal"]
    assert theirs.data.to_dict()[OURS]["step"] == 3


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("MIT", {"license": "mit"}),
        ("Only at Acme, Ltd.", {"license": "other", "license_name": "only-at-acme-ltd."}),
        ("仅限内部", {"license": "other", "license_name": "see-card"}),
        ("", {}),
    ],
)
def test_a_licence_is_what_a_hub_takes_for_one(licence: str, front: dict[str, str]) -> None:
    text = card(license=licence).to_markdown()
    found = ModelCard(text).data.to_dict()
    assert {key: found[key] for key in ("license", "license_name") if key in found} == front
    assert parse_card(text).license.lower() == licence.lower()


def test_a_base_that_hubs_know_is_named_to_them_and_a_directory_is_not() -> None:
    known = ModelCard(card(facts={"base_model": "THUDM/chatglm2-6b"}).to_markdown()).data
    assert (known.base_model, known.to_dict()["base_model_relation"]) == ("THUDM/chatglm2-6b", "adapter")
    assert ModelCard(card(facts={"base_model": "demo-model"}).to_markdown()).data.base_model is None


def test_what_others_wrote_on_a_card_stays() -> None:
    theirs = "---\nlanguage: zh\ntags: ads\nlicense: mit\ndatasets:\n- ann/ads\n---\n# Title\n\nHow it was made.\n"
    read = parse_card(theirs)
    assert (read.tags, read.license, read.notes) == (("ads",), "mit", "# Title\n\nHow it was made.")
    again = parse_card(read.edited(name="Adverts").to_markdown())
    assert again.other == {"language": "zh", "datasets": ["ann/ads"]}
    assert (again.name, again.notes) == ("Adverts", "# Title\n\nHow it was made.")


def test_a_licence_that_was_changed_on_a_hub_counts() -> None:
    text = card(license="Only here").to_markdown().replace("license_name: only-here", "license_name: everywhere")
    assert parse_card(text).license == "everywhere"
    assert parse_card(card(license="mit").to_markdown().replace("license: mit", "license: isc")).license == "isc"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x" * 81}, "name is longer than 80"),
        ({"tags": ["x" * 41]}, "tag is longer than 40"),
        ({"tags": [str(number) for number in range(21)]}, "more than 20 tags"),
        ({"notes": "长" * 20_001}, "note is longer than 20000"),
    ],
)
def test_what_is_too_long_for_a_card_is_a_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(CardError, match=words):
        card(**values)


def test_names_are_one_line_and_turn_no_text_around() -> None:
    assert card(name="  two\nlines \u202eback\x00 ").name == "two lines back"
    assert card(tags=["a", " a ", "", "b"]).tags == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "---\nfoo: [\n---\n",
        "---\n- a\n---\n",
        "---\n1: x\n---\n",
        f"---\n{OURS}: 3\n---\n",
        f"---\n{OURS}:\n  loss: .nan\n---\n",
        f"---\n{OURS}:\n  name: [x]\n---\n",
        "---\ntags:\n- [1]\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "\0" * 300_000,
        "\ud800",
    ],
)
def test_a_broken_card_is_named_and_its_prefix_is_there_without_it(text: str, info: CheckpointInfo) -> None:
    (info.path / CARD_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    entry = describe(info)
    assert entry.card is None and entry.name == "adverts / checkpoint-40"
    assert entry.problem is not None
    assert str(info.path / CARD_FILE) in entry.problem.en and "卡片" in entry.problem.zh


def test_a_card_is_read_again_when_it_has_changed_and_not_before(
    info: CheckpointInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr("training.library.entry.describe", lambda *given: read.append(given) or describe(*given))
    cards = Descriptions()
    write_card(info.path, card(name="One"))
    assert [cards.describe(info).name for _ in range(3)] == ["One"] * 3
    assert len(read) == 1
    write_card(info.path, card(name="Other"))
    assert cards.describe(info).name == "Other"


def test_writing_a_card_touches_no_other_file(info: CheckpointInfo) -> None:
    before = {file.name: file.read_bytes() for file in info.path.iterdir()}
    write_card(info.path, card(name="Adverts"))
    after = {file.name: file.read_bytes() for file in info.path.iterdir()}
    assert after.pop(CARD_FILE) and after == before


# Facts


def test_facts_are_what_run_and_checkpoint_say(info: CheckpointInfo, demo_model_dir: Path) -> None:
    facts = gather_facts(info)
    assert (facts.run, facts.step, facts.prefix_tokens, facts.loss) == ("adverts", 40, 4, 1.25)
    assert (facts.data_rows, facts.validation_loss, facts.rouge_l, facts.kept) == (9, 1.5, 21.25, 62.5)
    assert (facts.base_model, facts.base_fingerprint) == ("demo-model", base_fingerprint(str(demo_model_dir)))
    assert gather_facts(read_checkpoint(info.path.parent / "checkpoint-20")).validation_loss is None


def test_facts_that_the_files_no_longer_tell_are_kept_and_numbers_that_are_none_are_not(info: CheckpointInfo) -> None:
    known = gather_facts(info)
    (info.path.parent / "run.json").unlink()
    content = json.loads((info.path / "prefix.json").read_text(encoding="utf-8"))
    (info.path / "prefix.json").write_text(json.dumps({**content, "loss": float("nan")}), encoding="utf-8")
    again = gather_facts(read_checkpoint(info.path), known)
    assert again.data_rows == 9 and again.kept == 62.5
    assert again.loss is None


def test_facts_hold_what_the_last_evaluation_of_it_found(info: CheckpointInfo) -> None:
    output = info.path.parent.parent
    place = ComparisonStore(output).create(ComparisonRequest(values={}, checkpoints=(str(info.path),), file="f"))
    scores = {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 30.5, "bleu-4": 12.5}
    mine = Contestant(
        name="x", checkpoint=str(info.path), scores=scores, kept=Kept(likeness=91.0, unchanged=1, right=0)
    )
    base = Contestant(name="", checkpoint=None, scores=scores)
    found = Comparison(
        model="m", file="/d/dev.json", general_file=None, finished_at="", seconds=1, contestants=(base, mine), rows=()
    )
    (place.path / RESULT_FILE).write_text(found.model_dump_json(), encoding="utf-8")
    facts = gather_facts(info)
    assert (facts.rouge_l, facts.bleu_4, facts.kept) == (30.5, 12.5, 91.0)
    assert (facts.evaluated_on, facts.evaluated_rows) == ("dev.json", 0)
    assert gather_facts(read_checkpoint(info.path.parent / "checkpoint-20")).rouge_l is None
    keep_scores(found)
    shutil.rmtree(place.path)
    assert gather_facts(info) == facts  # deleting an evaluation takes nothing from what it found


def test_scores_are_kept_beside_checkpoints_of_runs_and_nowhere_else(info: CheckpointInfo, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / info.path.name
    shutil.copytree(info.path, elsewhere)
    scores = {"rouge-1": 40.5, "rouge-2": 20.5, "rouge-l": 30.5, "bleu-4": 12.5}
    contestants = tuple(
        Contestant(name=str(path), checkpoint=str(path) if path else None, scores=scores)
        for path in (None, info.path, elsewhere)
    )
    keep_scores(
        Comparison(
            model="m", file="dev.json", general_file=None, finished_at="", seconds=1, contestants=contestants, rows=()
        )
    )
    assert read_scores(info.path) == CheckpointScores(
        evaluated_on="dev.json", evaluated_rows=0, rouge_l=30.5, bleu_4=12.5
    )
    assert not (elsewhere / SCORES_FILE).exists()
    for broken in ("", "[]", '{"rouge_l": "much"}', "{"):
        (info.path / SCORES_FILE).write_text(broken, encoding="utf-8")
        assert read_scores(info.path) is None


def test_which_weights_a_prefix_was_trained_on_is_found_out_once_and_here_only(info: CheckpointInfo) -> None:
    assert gather_facts(info, Facts(base_fingerprint="0" * 64)).base_fingerprint == "0" * 64
    (info.path / ORIGIN_FILE).write_text("{}", encoding="utf-8")
    assert gather_facts(info).base_fingerprint == ""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("THUDM/chatglm2-6b", "THUDM/chatglm2-6b"),
        ("/home/ann/models/chatglm2-6b/", "chatglm2-6b"),
        ("/c/hub/models--zai-org--chatglm2-6b/snapshots/0123", "zai-org/chatglm2-6b"),
    ],
)
def test_a_bases_place_on_this_machine_is_nobodys_business(model: str, name: str) -> None:
    assert base_name(model) == name


def test_a_bases_fingerprint_tells_other_weights_apart_wherever_they_lie(tmp_path: Path) -> None:
    def fingerprint(where: str, last: float) -> str:
        weights = torch.zeros(3_000_000)
        weights[-1] = last
        (tmp_path / where).mkdir()
        save_file({"w": weights}, tmp_path / where / "model.safetensors")
        return base_fingerprint(str(tmp_path / where))

    assert fingerprint("here", 1) == fingerprint("there", 1) != fingerprint("other", 2)
    assert base_fingerprint(str(tmp_path / "gone")) == ""


# What is handed on


def test_a_bundle_holds_the_prefix_and_no_path_of_this_machine(info: CheckpointInfo, tmp_path: Path) -> None:
    content = json.loads((info.path / "prefix.json").read_text(encoding="utf-8"))
    settings = {"train_file": "/home/ann/secret/rows.json", "learning_rate": 0.01, "deepspeed": "C:\\ann\\ds.json"}
    (info.path / "prefix.json").write_text(json.dumps({**content, "settings": settings}), encoding="utf-8")
    (info.path / "optimizer.pt").write_bytes(b"stays")
    (target := tmp_path / "bundle").mkdir()
    write_bundle(info, target)
    assert {file.name for file in target.iterdir()} == {"prefix.safetensors", "prefix.json", CARD_FILE}
    told = json.loads((target / "prefix.json").read_text(encoding="utf-8"))
    assert told["settings"] == {"train_file": "rows.json", "learning_rate": 0.01, "deepspeed": "ds.json"}
    assert told["base_model"] == "demo-model"
    for file in target.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes() and b"ann" not in file.read_bytes()


def test_of_a_file_with_a_whole_model_in_it_only_the_prefix_is_handed_on(info: CheckpointInfo, tmp_path: Path) -> None:
    file = info.path / "prefix.safetensors"
    prefix = load_file(file)
    save_file({**prefix, "transformer.encoder.weight": torch.ones(9)}, file)
    (target := tmp_path / "bundle").mkdir()
    write_bundle(info, target)
    assert load_file(target / "prefix.safetensors").keys() == prefix.keys()


def test_a_zip_keeps_the_card_and_lands_on_the_shelf(info: CheckpointInfo, shelf: Shelf, tmp_path: Path) -> None:
    write_card(info.path, card(name="裙子广告", tags=["ads"], license="mit", notes="for skirts"))
    pack(info, tmp_path / "skirts.zip")
    first, second = take_zip(shelf, tmp_path / "skirts.zip"), take_zip(shelf, tmp_path / "skirts.zip")
    assert (first.name, second.name) == ("skirts", "skirts-2")
    (taken, origin), _ = shelf.taken()
    assert (taken.run_name, taken.step, taken.pre_seq_len) == ("skirts", 40, 4)
    assert (origin.kind, origin.name) == ("zip", "skirts.zip")
    read = read_card(first)
    assert read is not None
    assert (read.name, read.tags, read.license, read.notes) == ("裙子广告", ("ads",), "mit", "for skirts")
    assert read.facts == gather_facts(info)
    assert torch.equal(
        load_file(first / "prefix.safetensors")[EMBEDDING], load_file(info.path / "prefix.safetensors")[EMBEDDING]
    )


def tampered(make: Callable[[zipfile.ZipFile, bytes], None], info: CheckpointInfo, tmp_path: Path) -> Path:
    file = tmp_path / "given.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        make(archive, (info.path / "prefix.safetensors").read_bytes())
    return file


def saved(tmp_path: Path, **tensors: torch.Tensor) -> bytes:
    save_file(
        {f"{TENSOR_NAMESPACE}{name.replace('__', '.')}": tensor for name, tensor in tensors.items()}, tmp_path / "x"
    )
    return (tmp_path / "x").read_bytes()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "holds 0 prefixes"),
        ("two", "holds 2 prefixes"),
        ("model", "other tensors than a prefix"),
        ("nan", "not finite"),
        ("long", "3,000 tokens"),
        ("torn", "cannot be read as a prefix"),
        ("name", "a name of 999 characters"),
        ("bomb", "at most 1,048,576 belong"),
        ("list", "no zip that can be read"),
        ("no zip", "no zip that can be read"),
    ],
)
def test_a_zip_that_is_no_prefixs_is_refused_and_leaves_nothing(
    kind: str, words: str, info: CheckpointInfo, shelf: Shelf, tmp_path: Path
) -> None:
    def make(archive: zipfile.ZipFile, good: bytes) -> None:
        contents = {
            "none": {"a/README.md": b"# x"},
            "two": {"a/prefix.safetensors": good, "b/prefix.safetensors": good},
            "model": {"prefix.safetensors": saved(tmp_path, embedding__weight=torch.ones(2, 4), other=torch.ones(2))},
            "nan": {"prefix.safetensors": saved(tmp_path, embedding__weight=torch.full((2, 4), float("nan")))},
            "long": {"prefix.safetensors": saved(tmp_path, embedding__weight=torch.ones(3000, 4))},
            "torn": {"prefix.safetensors": good[:100]},
            "bomb": {"prefix.safetensors": good, "prefix.json": bytes(2**21)},
            "name": {"prefix.safetensors": good, "prefix.json": json.dumps({"run": "x" * 999}).encode()},
            "list": {f"{'x' * 200}{number}": b"" for number in range(5000)},
        }
        for name, content in contents.get(kind, {}).items():
            archive.writestr(name, content)

    file = tampered(make, info, tmp_path)
    if kind == "no zip":
        file.write_bytes(b"PK" + bytes(500))
    with pytest.raises(PrefixError, match=words):
        take_zip(shelf, file)
    assert shelf.taken() == [] and [item.name for item in shelf.root.iterdir() if item.is_dir()] == []


def test_of_a_zip_that_unfolds_to_more_than_a_prefix_has_nothing_is_written(
    info: CheckpointInfo, tmp_path: Path
) -> None:
    def make(archive: zipfile.ZipFile, good: bytes) -> None:
        archive.writestr("prefix.json", bytes(2**21))
        archive.writestr("prefix.safetensors", good)

    (target := tmp_path / "target").mkdir()
    with pytest.raises(PrefixError, match="at most 1,048,576 belong"):
        unpack(tampered(make, info, tmp_path), target)
    assert list(target.iterdir()) == []


def test_a_zips_paths_lead_nowhere_and_what_is_no_prefixs_stays_in_it(
    info: CheckpointInfo, shelf: Shelf, tmp_path: Path
) -> None:
    def make(archive: zipfile.ZipFile, good: bytes) -> None:
        archive.writestr("../../up/prefix.safetensors", good)
        archive.writestr("../../up/optimizer.pt", b"x")
        archive.writestr(f"../../up/{ORIGIN_FILE}", b"{}")

    place = take_zip(shelf, tampered(make, info, tmp_path))
    assert place.parent == shelf.root
    assert sorted(file.name for file in place.iterdir()) == ["prefix.safetensors", ORIGIN_FILE]
    assert not (tmp_path / "up").exists()


# The shelf


def entry(info: CheckpointInfo, **values: object) -> Entry:
    return Entry(info, card(**values))


@pytest.mark.parametrize(
    ("words", "tags", "is_meant"),
    [
        ("", (), True),
        ("skirt", (), True),
        ("ＳＫＩＲＴ 裙", (), True),
        ("checkpoint-40 rows.json", (), True),
        ("skirt trousers", (), False),
        ("", ("Ads",), True),
        ("", ("ads", "formal"), False),
    ],
)
def test_a_prefix_is_found_by_all_words_and_all_tags(
    words: str, tags: tuple[str, ...], is_meant: bool, info: CheckpointInfo
) -> None:
    named = entry(info, name="裙子", tags=["ads"], notes="Skirts only", facts={"data_file": "rows.json"})
    assert named.matches(words, tags) is is_meant


def test_tags_are_listed_with_the_most_used_first(info: CheckpointInfo) -> None:
    assert tags_of([entry(info, tags=["b", "a"]), entry(info, tags=["a"]), Entry(info)]) == ["a", "b"]


def test_a_prefix_is_named_by_its_place_or_by_its_name(run: Run, shelf: Shelf, info: CheckpointInfo) -> None:
    write_card(info.path, card(name="Adverts"))
    for text in (str(info.path), str(run.path), "adverts", "ADVERTS", "adverts/checkpoint-20"):
        step = 20 if text.endswith("20") else 40
        assert shelf.find(text).info.step == step
    write_card(info.path.parent / "checkpoint-20", card(name="Adverts"))
    with pytest.raises(RunError, match="2 prefixes are called"):
        shelf.find("Adverts")
    with pytest.raises(RunError, match="no prefix 'formal'"):
        shelf.find("formal")


def test_a_card_that_was_changed_here_outlives_a_newer_prefix(info: CheckpointInfo, shelf: Shelf) -> None:
    def put() -> Path:
        with shelf.staging("ann--x") as staged:
            write_bundle(info, staged)
            return shelf.put(staged, "ann--x", Origin(kind="hub", name="ann/x"), replace=True)

    write_card(put(), card(name="Mine"))
    write_card(info.path, card(name="Theirs"))
    assert (read_card(put()) or Card()).name == "Mine"
    (shelf.root / "ann--x" / CARD_FILE).unlink()
    assert (read_card(put()) or Card()).name == "Theirs"
    assert (read_card(put()) or Card()).name == "Theirs"


@pytest.mark.parametrize(
    ("text", "name"), [("ann/adverts", "ann--adverts"), ("../../etc", "etc"), ("裙 子", "裙-子"), ("...", "prefix")]
)
def test_a_place_is_called_what_a_directory_can_be_called(text: str, name: str) -> None:
    assert place_name(text) == name


def test_no_file_of_a_prefix_is_code(info: CheckpointInfo) -> None:
    assert {Path(name).suffix for name in LIMITS} == {".safetensors", ".bin", ".json", ".md"}
