"""The library on the Checkpoints tab: cards, names, tags, and prefixes from elsewhere, without a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hub_account import use_endpoint, use_own_account
from past_runs import write_past_run
from stand_in_uploads import UploadHub

from app.chat.model_host import ModelOptions
from app.chat.sources import BASE
from app.door.door import Visitor
from app.places import places_for
from app.services import Services, build_services
from app.tabs.access import VISITOR
from app.tabs.checkpoints import CheckpointsTab
from app.tabs.compare import CompareTab
from app.text.languages import LANGUAGE_COOKIE, Speech
from app.views.chat_view import menu
from app.views.checkpoint_table import EVERYTHING, Wanted
from chatglm2.errors import ChatGLMError, PrefixError
from training.library.archive import pack
from training.library.card import CARD_FILE, Card, read_card, write_card
from training.library.hub import push
from training.runs.checkpoints import read_checkpoint

CHOSEN = {"left": BASE, "right": BASE}
# huggingface_hub hands a file to its HTTP client in a way that the client would not have.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def request(language: str = "en", *, may_change: bool = True) -> Any:
    scope = {VISITOR: Visitor("here", may_change=may_change)}
    return SimpleNamespace(cookies={LANGUAGE_COOKIE: language}, headers={}, request=SimpleNamespace(scope=scope))


@pytest.fixture
def output(tmp_path: Path, demo_model_dir: Path) -> Path:
    """One run with checkpoints of steps 20 and 40."""
    write_past_run(tmp_path / "output", demo_model_dir, "adverts")
    return tmp_path / "output"


@pytest.fixture
def services(output: Path, demo_model_dir: Path) -> Iterator[Services]:
    services = build_services(ModelOptions(str(demo_model_dir), device="cpu"), output, places_for(output))
    yield services
    services.training.close()


@pytest.fixture
def tab(services: Services, page: gr.Blocks, said: list[str]) -> CheckpointsTab:
    compare, tab = CompareTab(services), CheckpointsTab(services)
    tab.bind(page, gr.Timer(), compare)
    return tab


def checkpoint(output: Path, step: int = 40) -> Path:
    return output / "adverts" / f"checkpoint-{step}"


def shown(services: Services, key: Path) -> str:
    services.sources.look_again()
    return services.sources.find(str(key)).name


def test_a_named_prefix_shows_its_name_in_menus_and_two_of_one_name_are_told_apart(
    services: Services, output: Path
) -> None:
    write_card(checkpoint(output), Card(name="Adverts"))
    assert shown(services, checkpoint(output)) == "Adverts"
    assert [label for label, _ in menu(services.sources.sources(), Speech())][2:] == [
        "Adverts (newest)",
        "adverts / checkpoint-20",
    ]
    write_card(checkpoint(output, 20), Card(name="Adverts"))
    assert shown(services, checkpoint(output)) == "Adverts · adverts / checkpoint-40"
    assert shown(services, checkpoint(output, 20)) == "Adverts · adverts / checkpoint-20"


def test_an_operator_writes_a_card_and_sees_it_at_once(tab: CheckpointsTab, output: Path, said: list[str]) -> None:
    key = str(checkpoint(output))
    opened = tab.card.open(key, request())
    assert (opened[tab.card.name], opened[tab.card.form].visible) == ("", True)
    assert "1.5000" in opened[tab.card.facts] and "17c1aee11ce0" in opened[tab.card.facts]
    updates = tab.card.on_save(key, "裙子", "ads，裙子", "MIT", "Notes.", CHOSEN, EVERYTHING, request())
    assert "裙子" in updates[tab.table] and 'class="tag">ads<' in updates[tab.table]
    assert said == ["The card of 裙子 is saved."]
    card = read_card(checkpoint(output))
    assert card is not None and (card.tags, card.license, card.notes) == (("ads", "裙子"), "mit", "Notes.")
    assert (card.facts.step, card.facts.data_rows) == (40, 9)


def test_what_cannot_be_on_a_card_is_said_and_the_card_stays(
    tab: CheckpointsTab, output: Path, said: list[str]
) -> None:
    write_card(checkpoint(output), Card(name="Before"))
    tab.card.on_save(str(checkpoint(output)), "x" * 200, "", "", "", CHOSEN, EVERYTHING, request("zh"))
    assert said == ["名称超过 80 个字符，请缩短。"]
    assert (read_card(checkpoint(output)) or Card()).name == "Before"


def test_a_viewer_reads_a_card_and_has_no_form(tab: CheckpointsTab, output: Path) -> None:
    write_card(checkpoint(output), Card(name="Adverts", tags=("ads",), license="mit", notes="<b>For skirts</b>"))
    opened = tab.card.open(str(checkpoint(output)), request(may_change=False))
    assert not opened[tab.card.form].visible and not opened[tab.card.save].visible
    assert "&lt;b&gt;For skirts&lt;/b&gt;" in opened[tab.card.facts] and "mit" in opened[tab.card.facts]


def test_a_broken_card_is_named_in_the_table_and_explained_in_its_panel(
    tab: CheckpointsTab, services: Services, output: Path, said: list[str]
) -> None:
    (checkpoint(output) / CARD_FILE).write_text("---\n[\n---\n", encoding="utf-8")
    assert "Its card cannot be read" in tab.on_find("", [], CHOSEN, request())[tab.table]
    opened = tab.card.open(str(checkpoint(output)), request("zh"))
    assert "请修正或删除该文件" in opened[tab.card.facts] and not opened[tab.card.form].visible
    with pytest.raises(ChatGLMError, match="Mend or delete"):
        services.library.write(str(checkpoint(output)), SimpleNamespace())  # type: ignore[arg-type]


def test_the_base_and_what_is_gone_have_no_card(tab: CheckpointsTab, output: Path, said: list[str]) -> None:
    for key in (BASE, str(output / "gone")):
        assert not tab.card.open(key, request())[tab.card.box].visible
    assert "no card" in said[0] and "is gone" in said[1]


def test_prefixes_are_found_by_words_and_tags_and_the_tags_are_offered(
    tab: CheckpointsTab, services: Services, output: Path
) -> None:
    write_card(checkpoint(output), Card(name="Skirts", tags=("ads",)))
    first = tab.on_tick("", CHOSEN, EVERYTHING, [], request())
    assert first[tab.known_tags] == ["ads"] and first[tab.tags].visible
    assert tab.tags not in tab.on_tick("", CHOSEN, EVERYTHING, ["ads"], request())
    found = tab.on_find("skirt", ["ads"], CHOSEN, request())
    assert found[tab.wanted] == Wanted("skirt", ("ads",))
    assert str(checkpoint(output)) in found[tab.table] and str(checkpoint(output, 20)) not in found[tab.table]
    assert "No prefix has all of this" in tab.on_find("trousers", None, CHOSEN, request())[tab.table]
    kept = tab.on_tick("", CHOSEN, Wanted("skirt"), ["ads"], request())
    assert str(checkpoint(output, 20)) not in kept[tab.table]


def test_a_zip_that_was_uploaded_lands_in_the_list_with_its_card_and_can_be_deleted(
    tab: CheckpointsTab, services: Services, output: Path, tmp_path: Path, said: list[str]
) -> None:
    write_card(checkpoint(output), Card(name="Skirts", notes="For skirts."))
    uploaded = tmp_path / "skirts.zip"
    pack(read_checkpoint(checkpoint(output)), uploaded)
    shutil.rmtree(output / "adverts")
    updates = tab.taking.on_zip(str(uploaded), CHOSEN, EVERYTHING, request())
    assert "Skirts" in updates[tab.table] and said == ["Skirts is in the list now."]
    assert not uploaded.exists()
    key = str(output / "library" / "skirts")
    opened = tab.card.open(key, request("zh"))
    assert "压缩包 skirts.zip" in opened[tab.card.facts] and opened[tab.card.notes] == "For skirts."
    assert "for good" in str(tab._ask(key, Speech())[tab.question])
    tab.on_delete(key, CHOSEN, EVERYTHING, request())
    assert not Path(key).exists() and services.sources.sources()[1:] == []


def test_a_file_that_is_no_prefixs_zip_is_refused_and_removed(
    tab: CheckpointsTab, services: Services, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    assert tab.taking.on_zip(str(tmp_path / "x.zip"), CHOSEN, EVERYTHING, request()) == {}
    assert "no zip that can be read" in said[0] and not (tmp_path / "x.zip").exists()


def test_a_prefix_is_pulled_from_a_hub_or_a_sentence_says_why_not(
    tab: CheckpointsTab, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    use_own_account(tmp_path, monkeypatch)
    write_card(checkpoint(output), Card(name="Skirts"))
    with UploadHub({}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        push(read_checkpoint(checkpoint(output)), "ann/skirts")
        updates = tab.taking.on_pull(" ann/skirts ", CHOSEN, EVERYTHING, request())
        assert updates[tab.taking.repository] == "" and "ann--skirts" in updates[tab.table]
        opened = tab.card.open(str(output / "library" / "ann--skirts"), request())
        assert "ann/skirts on Hugging Face" in opened[tab.card.facts]
        assert tab.taking.on_pull("ann/gone", CHOSEN, EVERYTHING, request()) == {tab.taking.repository: gr.skip()}
    tab.taking.on_pull("ann/skirts", CHOSEN, EVERYTHING, request("zh"))
    assert said[0] == "Skirts · ann--skirts / ann--skirts is in the list now."
    assert "has no" in said[1] and "无法连接 Hugging Face" in said[2] and "镜像" in said[2]


def test_a_prefix_of_other_weights_says_so_on_its_card(tab: CheckpointsTab, output: Path) -> None:
    known = json.loads((checkpoint(output) / "prefix.json").read_text(encoding="utf-8"))
    (checkpoint(output) / "prefix.json").write_text(json.dumps({**known, "base_model": ""}), encoding="utf-8")
    facts = {"base_fingerprint": "0" * 64, "base_model": "THUDM/chatglm2-6b"}
    write_card(checkpoint(output), Card.checked({"facts": facts}))
    opened = tab.card.open(str(checkpoint(output)), request())
    assert "other weights (THUDM/chatglm2-6b)" in opened[tab.card.facts]


def test_a_card_that_leads_out_of_the_folders_that_are_read_is_not_read(
    output: Path, tmp_path: Path, demo_model_dir: Path
) -> None:
    named = write_past_run(tmp_path / "named", demo_model_dir, "theirs").path / "checkpoint-40"
    (tmp_path / "secret").write_text("# Secret", encoding="utf-8")
    (named / CARD_FILE).symlink_to(tmp_path / "secret")
    with pytest.raises(PrefixError, match="outside of the folders"):
        places_for(output, checkpoints=[tmp_path / "named"]).checkpoint(str(named))
