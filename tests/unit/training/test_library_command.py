"""``./launch.sh library``: what it prints and what it leaves."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hub_account import use_endpoint, use_own_account
from past_runs import write_past_run
from stand_in_uploads import UploadHub

from training.cli.library import main
from training.library.card import CARD_FILE, Card, read_card
from training.runs.store import Run

# huggingface_hub hands a file to its HTTP client in a way that the client would not have.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Spoken = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def run(tmp_path: Path, demo_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in ``output``, which is where a command looks."""
    monkeypatch.chdir(tmp_path)
    return write_past_run(tmp_path / "output", demo_model_dir, "adverts")


def card_of(place: Path) -> Card:
    return read_card(place) or Card()


def test_a_card_is_written_shown_and_found(run: Run, tmp_path: Path, capsys: Spoken) -> None:
    (tmp_path / "notes.md").write_text("For skirts.", encoding="utf-8")
    words = ["--name", "裙子广告", "--tags", "ads，裙子, ads", "--license", "mit", "--notes-file", "notes.md"]
    assert main(["card", "output/adverts/checkpoint-20", *words]) == 0
    assert str(run.path / "checkpoint-20" / CARD_FILE) in capsys.readouterr().out
    card = card_of(run.path / "checkpoint-20")
    assert (card.name, card.tags, card.license, card.notes) == ("裙子广告", ("ads", "裙子"), "mit", "For skirts.")
    assert card.facts.step == 20
    assert main(["card", "裙子广告", "--tags", ""]) == 0
    assert card_of(run.path / "checkpoint-20").tags == () and card_of(run.path / "checkpoint-20").notes == "For skirts."
    capsys.readouterr()
    assert main(["card", "裙子广告"]) == 0
    assert "# 裙子广告" in capsys.readouterr().out
    assert main(["list", "裙子"]) == 0
    out = capsys.readouterr().out
    assert "裙子广告" in out and "checkpoint-40" not in out
    assert main(["list", "--tag", "ads"]) == 0
    assert capsys.readouterr().out == "No prefix is found.\n"


def test_a_card_that_was_never_written_shows_the_facts_and_writes_nothing(run: Run, capsys: Spoken) -> None:
    assert main(["card", "adverts"]) == 0
    assert "validation_loss: 1.5" in capsys.readouterr().out
    assert not (run.path / "checkpoint-40" / CARD_FILE).exists()


def test_a_broken_card_is_listed_as_such_and_not_replaced(run: Run, capsys: Spoken) -> None:
    (run.path / "checkpoint-40" / CARD_FILE).write_text("---\n[\n---\n", encoding="utf-8")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "adverts / checkpoint-40" in out and "cannot be read" in out
    assert main(["card", "adverts", "--name", "x"]) == 2
    assert "Mend or delete" in capsys.readouterr().err
    assert (run.path / "checkpoint-40" / CARD_FILE).read_text(encoding="utf-8") == "---\n[\n---\n"


def test_a_zip_is_written_and_taken_in(run: Run, tmp_path: Path, capsys: Spoken) -> None:
    assert main(["card", "adverts", "--name", "Adverts"]) == main(["zip", "Adverts", "adverts.zip"]) == 0
    with zipfile.ZipFile("adverts.zip") as archive:
        assert f"adverts-checkpoint-40/{CARD_FILE}" in archive.namelist()
    assert main(["add", "adverts.zip", "--output", "elsewhere"]) == 0
    assert "Adverts is in" in capsys.readouterr().out
    assert card_of(tmp_path / "elsewhere" / "library" / "adverts").name == "Adverts"


def test_a_prefix_goes_to_a_hub_is_found_there_and_comes_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Spoken
) -> None:
    use_own_account(tmp_path, monkeypatch)
    with UploadHub({}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        assert main(["card", "adverts", "--tags", "ads"]) == main(["push", "adverts", "ann/adverts"]) == 0
        assert f"{server.endpoint}/ann/adverts/commit/" in capsys.readouterr().out
        assert main(["search", "adverts", "--tag", "ads"]) == 0
        assert "ann/adverts" in capsys.readouterr().out
        assert main(["pull", "ann/adverts", "--output", "elsewhere"]) == 0
        assert "Its base model is demo-model." in capsys.readouterr().out
    place = tmp_path / "elsewhere" / "library" / "ann--adverts"
    assert json.loads((place / "source.json").read_text(encoding="utf-8"))["name"] == "ann/adverts"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["frob"], "invalid choice"),
        (["card", "nothing"], "There is no prefix 'nothing'"),
        (["card", "adverts", "--name", "x" * 99], "name is longer than 80"),
        (["card", "adverts", "--notes_file", "gone.md"], "--notes_file gone.md cannot be read"),
        (["zip", "adverts", "no/such/place.zip"], "cannot be written"),
        (["add", "gone.zip"], "gone.zip is no zip"),
        (["push", "adverts", "name"], "owner/name"),
    ],
)
def test_a_mistake_is_a_sentence(run: Run, words: list[str], sentence: str, capsys: Spoken) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_help_and_mistakes_are_chinese_where_the_shell_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Spoken
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with pytest.raises(SystemExit):
        main([])
    assert "前缀库" in capsys.readouterr().out
    assert main(["card", "nothing"]) == 2
    assert "没有前缀“nothing”" in capsys.readouterr().err
