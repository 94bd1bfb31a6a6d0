"""Prefixes to a hub and back, against one on this machine that refuses and lies on purpose."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_account import use_endpoint, use_own_account
from huggingface_hub import ModelCard
from past_runs import write_past_run
from stand_in_uploads import LARGE_BYTES, TOKEN, UploadHub

from chatglm2.checkpoints.hub import Hub
from chatglm2.errors import ChatGLMError, HubError, PrefixError
from training.library.card import CARD_FILE, Card, read_card, write_card
from training.library.hub import pull, push, search
from training.library.shelf import Shelf
from training.runs.checkpoints import CheckpointInfo, read_checkpoint

NAME = "ann/adverts"
# huggingface_hub hands a file to its HTTP client in a way that the client would not have.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_own_account(tmp_path, monkeypatch)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with UploadHub({}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        yield server


@pytest.fixture
def info(tmp_path: Path, demo_model_dir: Path) -> CheckpointInfo:
    found = write_past_run(tmp_path / "output", demo_model_dir, "adverts").checkpoints()[-1]
    write_card(found.path, Card(name="裙子广告", tags=("ads",), license="MIT", notes="For skirts."))
    (found.path / "optimizer.pt").write_bytes(b"stays")
    return found


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "elsewhere")


def files_of(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir()}


def test_a_pushed_prefix_is_on_the_hub_in_one_commit_and_only_its_own_files(
    server: UploadHub, info: CheckpointInfo
) -> None:
    address = push(info, NAME)
    files = server.repositories[NAME]
    assert sorted(files) == [CARD_FILE, "prefix.json", "prefix.safetensors"]
    assert files["prefix.safetensors"] == (info.path / "prefix.safetensors").read_bytes()
    assert len(files["prefix.safetensors"]) >= LARGE_BYTES and server.objects
    assert [commit["summary"] for commit in server.commits[NAME]] == ["Add adverts, step 40"]
    assert address.startswith(f"{server.endpoint}/{NAME}/commit/")
    assert NAME in server.private
    assert ModelCard(files[CARD_FILE].decode()).data.license == "mit"


def test_it_is_public_only_where_that_was_asked_for(server: UploadHub, info: CheckpointInfo) -> None:
    push(info, NAME, public=True, message="First")
    assert server.private == set() and server.commits[NAME][0]["summary"] == "First"


def test_a_pushed_prefix_comes_back_with_its_card_and_where_it_came_from(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    told: list[tuple[int, int]] = []
    place = pull(NAME, shelf, progress=lambda done, total: told.append((done, total)))
    assert place == shelf.root / "ann--adverts"
    ((taken, origin),) = shelf.taken()
    assert (taken.path, taken.step, taken.base_model) == (place, 40, "demo-model")
    assert (origin.name, origin.hub, origin.revision) == (NAME, "huggingface", server.commit_of(NAME))
    assert origin.taken_at is not None
    card = read_card(place)
    assert card is not None and (card.name, card.tags, card.notes) == ("裙子广告", ("ads",), "For skirts.")
    assert files_of(place)["prefix.safetensors"] == files_of(info.path)["prefix.safetensors"]
    assert told[-1][0] == told[-1][1] == sum(map(len, server.repositories[NAME].values()))


def test_a_later_push_takes_the_place_of_the_earlier_one_there_and_here(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    server.repositories[NAME]["pytorch_model.bin"] = b"an older one"
    pull(NAME, shelf)
    write_card(info.path, Card(name="Better"))
    push(info, NAME)
    assert "pytorch_model.bin" not in server.repositories[NAME]
    assert (read_card(pull(NAME, shelf)) or Card()).name == "Better"
    assert len(shelf.taken()) == 1


def test_of_a_repository_only_a_prefixs_files_are_fetched(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    server.repositories[NAME] |= {"run.py": b"raise SystemExit", "optimizer.pt": b"x", "pytorch_model.bin": b"x"}
    server.repositories[NAME] |= {"source.json": b"{}", "sub/prefix.json": b"{}"}
    server.downloads.clear()
    pull(NAME, shelf)
    assert {name for name, _ in server.downloads} == {CARD_FILE, "prefix.json", "prefix.safetensors"}


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_either_hub_gives_a_prefix(server: UploadHub, info: CheckpointInfo, shelf: Shelf, hub: Hub) -> None:
    push(info, NAME)
    assert (read_card(pull(NAME, shelf, hub=hub)) or Card()).name == "裙子广告"
    assert shelf.taken()[0][1].hub == hub


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"# x", "config.json": b"{}"}, "holds no prefix"),
        ({"prefix.safetensors": b"torn"}, "cannot be read as a prefix"),
        ({"pytorch_model.bin": b"\x80\x02torn"}, "before 2020"),
    ],
)
def test_what_is_no_prefix_is_refused_and_leaves_nothing(
    server: UploadHub, shelf: Shelf, files: dict[str, bytes], words: str
) -> None:
    server.repositories[NAME] = files
    with pytest.raises((HubError, PrefixError), match=words):
        pull(NAME, shelf)
    assert shelf.taken() == [] and not [item for item in shelf.root.glob("*") if item.is_dir()]


def test_what_is_too_large_is_refused_before_a_byte_is_fetched(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    server.claimed_sizes["prefix.safetensors"] = 12 * 10**9
    server.downloads.clear()
    with pytest.raises(PrefixError, match="at most 1,073,741,824"):
        pull(NAME, shelf)
    assert server.downloads == []


def test_a_hub_that_sends_more_than_it_lists_is_not_listened_to(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    server.claimed_sizes["prefix.safetensors"] = 10
    with pytest.raises(HubError, match="sends more than"):
        pull(NAME, shelf)
    assert shelf.taken() == []


@pytest.mark.parametrize("name", ["", "adverts", "../x/y", "a/b/c", "https://hf.co/ann/x", "ann/"])
def test_a_name_that_no_hub_has_is_refused_without_asking(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf, name: str
) -> None:
    for ask in (lambda: pull(name, shelf), lambda: push(info, name)):
        with pytest.raises(HubError, match="owner/name"):
            ask()
    assert server.request_count == 0


def test_a_missing_a_gated_and_a_private_repository_say_what_to_do(server: UploadHub, shelf: Shelf) -> None:
    with pytest.raises(HubError, match="has no 'ann/gone', or it is private") as missing:
        pull("ann/gone", shelf)
    assert "HF_TOKEN" in missing.value.en and "没有“ann/gone”" in missing.value.zh
    server.gated.add(NAME)
    with pytest.raises(HubError, match="does not give"):
        pull(NAME, shelf)


@pytest.mark.parametrize("token", ["", "hf_reads"])
def test_who_may_not_write_is_told_about_the_token(
    server: UploadHub, info: CheckpointInfo, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match="does not let this account write") as refused:
        push(info, NAME)
    assert "HF_TOKEN" in refused.value.zh
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match="does not let this account write"):
        push(info, "somebody-else/adverts")


def test_a_card_that_the_hub_refuses_is_a_sentence_and_no_file_goes_there(
    server: UploadHub, info: CheckpointInfo
) -> None:
    write_card(info.path, Card(license="isc"))
    with pytest.raises(HubError, match="license"):
        push(info, NAME)
    assert server.repositories[NAME] == {}


def test_an_upload_that_breaks_off_is_a_sentence(server: UploadHub, info: CheckpointInfo) -> None:
    server.refuses_objects = True
    with pytest.raises(HubError, match="could not be reached"):
        push(info, NAME)
    assert server.repositories[NAME] == {}


def test_without_a_network_everything_says_so(
    info: CheckpointInfo, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    use_endpoint(monkeypatch, f"http://127.0.0.1:{port}")
    for ask in (lambda: pull(NAME, shelf), lambda: push(info, NAME), lambda: search("x")):
        with pytest.raises(HubError, match="could not be reached") as offline:
            ask()
        assert "HF_ENDPOINT" in offline.value.en and "镜像" in offline.value.zh


def test_what_answers_and_is_no_hub_is_told_from_one_that_refuses(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    server.repositories[NAME], server.is_portal = {"prefix.safetensors": b""}, True
    for ask in (lambda: pull(NAME, shelf), lambda: push(info, NAME), lambda: search("x")):
        with pytest.raises(HubError, match="something else than a hub"):
            ask()


def test_prefixes_are_found_on_the_hub_by_words_and_tags(server: UploadHub, info: CheckpointInfo) -> None:
    push(info, NAME)
    server.repositories["bob/model"] = {CARD_FILE: b"---\ntags:\n- ads\n---\n"}
    assert [(found.repository, found.tags, found.changed) for found in search("adverts")] == [
        (NAME, ("ads",), "2026-11-24")
    ]
    assert [found.repository for found in search("", ["ads"])] == [NAME]
    assert search("", ["formal"]) == []


def test_the_originals_checkpoint_travels_as_it_is(
    server: UploadHub, golden: Path, tmp_path: Path, shelf: Shelf
) -> None:
    shutil.copytree(golden / "prefix", tmp_path / "theirs")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"_name_or_path": "/home/ann/m", "pre_seq_len": 4}))
    push(read_checkpoint(tmp_path / "theirs"), NAME)
    place = pull(NAME, shelf)
    assert files_of(place)["pytorch_model.bin"] == files_of(tmp_path / "theirs")["pytorch_model.bin"]
    assert json.loads(files_of(place)["config.json"]) == {"_name_or_path": "m", "pre_seq_len": 4}


def test_a_pulled_prefix_is_whole_even_where_two_come_at_once(
    server: UploadHub, info: CheckpointInfo, shelf: Shelf
) -> None:
    push(info, NAME)
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(lambda _: pull(NAME, shelf), range(4)))
    assert len(places) == 1 and len(shelf.taken()) == 1
    assert not [item for item in shelf.root.iterdir() if item.is_dir() and item.name.startswith(".")]
    assert issubclass(HubError, ChatGLMError)
