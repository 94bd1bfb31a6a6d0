"""Downloading a checkpoint, against a hub on this machine that can break on purpose."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import modelscope_hub._download
import pytest
from stand_in_hub import COMMIT, StandInHub

from chatglm2.checkpoints.hub import TOKENIZER_FILES, DownloadProgress, Hub, resolve_model_directory
from chatglm2.errors import CheckpointError, HubError

SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
CHECKPOINT = {
    "config.json": b'{"model_type": "chatglm"}',
    "configuration_chatglm.py": b"raise SystemExit('remote code ran')",
    "modeling_chatglm.py": b"raise SystemExit('remote code ran')",
    "pytorch_model.bin.index.json": b'{"weight_map": {}}',
    SHARDS[0]: bytes(range(256)) * 256,
    SHARDS[1]: bytes(reversed(range(256))) * 200,
    "README.md": b"# ChatGLM2-6B",
    "tokenizer.model": b"sentencepiece" * 100,
    "tokenizer_config.json": b"{}",
}
WANTED = {name for name in CHECKPOINT if not name.endswith((".py", ".md"))}
HUBS: tuple[Hub, ...] = ("huggingface", "modelscope")
NAME_ON = {"huggingface": "zai-org/chatglm2-6b", "modelscope": "ZhipuAI/chatglm2-6b"}


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    # Both clients write chunk by chunk; these files are small.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(modelscope_hub._download, "DOWNLOAD_CHUNK_SIZE", 1024)


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint)


@pytest.fixture(params=HUBS)
def hub(request: pytest.FixtureRequest) -> Hub:
    return request.param


@pytest.fixture
def server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with StandInHub({NAME_ON[hub]: dict(CHECKPOINT)}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        yield server


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    use_endpoint(monkeypatch, f"http://127.0.0.1:{port}")
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    assert resolve_model_directory(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("text", ["", "no-such-model", "./missing/model", "/missing", "a/b/c", "C:\\model", "../x/y"])
def test_what_is_neither_directory_nor_hub_id_is_refused_without_asking_a_hub(text: str) -> None:
    with pytest.raises(CheckpointError, match="no directory") as caught:
        resolve_model_directory(text)
    assert not isinstance(caught.value, HubError)
    assert "owner/name" in caught.value.en and "找不到目录" in caught.value.zh


def test_a_missing_entry_of_an_existing_directory_is_a_path_not_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "output").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no directory 'output/run'"):
        resolve_model_directory("output/run")


def test_a_file_is_told_from_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_model_directory(path)


@pytest.mark.parametrize("name", ["THUDM/chatglm2-6b", "zai-org/chatglm2-6b", "ZhipuAI/chatglm2-6b"])
def test_every_name_of_chatglm2_finds_it_and_no_code_is_fetched(server: StandInHub, hub: Hub, name: str) -> None:
    directory = resolve_model_directory(name, hub=hub)
    assert contents(directory) == {name: CHECKPOINT[name] for name in WANTED}
    assert {name for name, _ in server.downloads} == WANTED


def test_the_older_name_serves_where_the_newer_one_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInHub({"THUDM/chatglm2-6b": CHECKPOINT}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        assert contents(resolve_model_directory("zai-org/chatglm2-6b")).keys() == WANTED


def test_progress_counts_every_byte_once(server: StandInHub, hub: Hub) -> None:
    server.cuts = {SHARDS[0]: 1}
    reports: list[DownloadProgress] = []
    resolve_model_directory(NAME_ON[hub], hub=hub, progress=reports.append)
    total = sum(len(CHECKPOINT[name]) for name in WANTED)
    assert {report.total_bytes for report in reports} == {total}
    received = [report.received_bytes for report in reports]
    assert received == sorted(received) and received[-1] == total
    assert len(received) > 10


def test_a_cut_transfer_continues_in_the_same_call(server: StandInHub, hub: Hub) -> None:
    server.cuts = {SHARDS[0]: 2}
    directory = resolve_model_directory(NAME_ON[hub], hub=hub)
    assert (directory / SHARDS[0]).read_bytes() == CHECKPOINT[SHARDS[0]]
    ranges = [range_ for name, range_ in server.downloads if name == SHARDS[0]]
    assert len(ranges) == 3 and ranges[0] is None and all(ranges[1:])


def test_a_broken_download_says_so_and_finished_files_are_kept(
    server: StandInHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 0)
    server.cuts, server.breaks_after_cut = {SHARDS[0]: 1}, True
    with pytest.raises(HubError, match=r"broke off.*finished files are kept"):
        resolve_model_directory(NAME_ON[hub], hub=hub)

    server.broken.clear()
    server.downloads.clear()
    reports: list[DownloadProgress] = []
    directory = resolve_model_directory(NAME_ON[hub], hub=hub, progress=reports.append)
    assert contents(directory) == {name: CHECKPOINT[name] for name in WANTED}
    assert [name for name, _ in server.downloads] == [SHARDS[0]]
    if hub == "modelscope":  # huggingface_hub takes up a half file within one call only
        assert server.downloads[0][1] is not None
    assert reports[0].received_bytes > 0 and reports[-1].received_bytes == reports[-1].total_bytes


def test_a_complete_snapshot_needs_no_hub(server: StandInHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = resolve_model_directory("THUDM/chatglm2-6b", hub=hub)
    asked = server.request_count
    for name in ("THUDM/chatglm2-6b", "zai-org/chatglm2-6b"):
        assert resolve_model_directory(name, hub=hub) == directory
    assert server.request_count == asked


def test_a_snapshot_that_lacks_a_shard_is_completed(server: StandInHub, hub: Hub) -> None:
    directory = resolve_model_directory(NAME_ON[hub], hub=hub)
    (directory / SHARDS[1]).unlink()
    assert resolve_model_directory(NAME_ON[hub], hub=hub, files=TOKENIZER_FILES) == directory
    assert not (directory / SHARDS[1]).exists()
    assert contents(resolve_model_directory(NAME_ON[hub], hub=hub)).keys() == WANTED


def test_only_what_is_asked_for_is_fetched(server: StandInHub, hub: Hub) -> None:
    directory = resolve_model_directory(NAME_ON[hub], hub=hub, files=TOKENIZER_FILES)
    assert contents(directory).keys() == set(TOKENIZER_FILES)


def test_weights_that_a_repository_holds_twice_are_fetched_once_as_safetensors(server: StandInHub, hub: Hub) -> None:
    safetensors = {"model.safetensors": b"weights" * 1000, "model.safetensors.index.json": b"{}"}
    server.repositories[NAME_ON[hub]].update(safetensors)
    names = contents(resolve_model_directory(NAME_ON[hub], hub=hub)).keys()
    assert names == {"config.json", *TOKENIZER_FILES, *safetensors}


def test_a_revision_is_fetched_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInHub({"owner/model": CHECKPOINT}) as server:
        use_endpoint(monkeypatch, server.endpoint)
        assert resolve_model_directory("owner/model", revision=COMMIT).name == COMMIT
        with pytest.raises(HubError, match="no 'owner/model@v9'"):
            resolve_model_directory("owner/model", revision="v9")


def assert_helpful(error: HubError) -> None:
    assert "--model DIR" in error.en and "--model 目录" in error.zh
    assert "Traceback" not in error.en and "\n" not in error.en


@pytest.mark.usefixtures("unreachable")
def test_an_unreachable_hub_gets_a_sentence_that_names_the_other_ways(hub: Hub) -> None:
    with pytest.raises(HubError, match="could not be reached") as caught:
        resolve_model_directory("THUDM/chatglm2-6b", hub=hub)
    assert_helpful(caught.value)
    assert "--hub" in caught.value.en and "HF_ENDPOINT" in caught.value.en and "HF_ENDPOINT" in caught.value.zh


def test_a_missing_repository_is_named(server: StandInHub, hub: Hub) -> None:
    with pytest.raises(HubError, match="has no 'nobody/nothing'") as caught:
        resolve_model_directory("nobody/nothing", hub=hub)
    assert_helpful(caught.value)


def test_a_gated_repository_asks_for_a_token(server: StandInHub, hub: Hub) -> None:
    server.gated.add(NAME_ON[hub])
    with pytest.raises(HubError, match="HF_TOKEN") as caught:
        resolve_model_directory(NAME_ON[hub], hub=hub)
    assert_helpful(caught.value)


def test_a_repository_of_another_kind_is_refused(server: StandInHub, hub: Hub) -> None:
    server.repositories["owner/pictures"] = {"README.md": b"", "cat.png": b""}
    with pytest.raises(HubError, match=r"none of the files.*README\.md, cat\.png"):
        resolve_model_directory("owner/pictures", hub=hub)


def test_a_full_disk_is_noticed_before_the_first_byte(
    server: StandInHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(HubError, match=r"0\.0 GB free.*HF_HOME") as caught:
        resolve_model_directory(NAME_ON[hub], hub=hub)
    assert_helpful(caught.value)
    assert server.downloads == []


def test_the_endpoint_variable_is_honoured(tmp_path: Path) -> None:
    program = "from chatglm2.checkpoints.hub import *; print(resolve_model_directory('THUDM/chatglm2-6b'), end='')"
    with StandInHub({"THUDM/chatglm2-6b": CHECKPOINT}) as server:
        environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path)}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert contents(Path(result.stdout)).keys() == WANTED
    assert result.stderr == ""
