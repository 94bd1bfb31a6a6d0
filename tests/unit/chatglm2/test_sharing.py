"""Processes that load the same checkpoint use one copy of its weights; nobody can change it, no death takes it away."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing_process import Sharer
from tiny_checkpoint import write_tiny_checkpoint

from chatglm2 import load_model
from chatglm2.memory import peers, sharing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="weights are shared on Linux only")

Share = Callable[..., Sharer]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for sockets that no other test has."""
    directory = tmp_path / "runtime"
    directory.mkdir()
    monkeypatch.setenv(peers.RUNTIME_VARIABLE, str(directory))
    return directory


@pytest.fixture
def share(checkpoint: Path, runtime: Path) -> Iterator[Share]:
    """Starts processes that load the checkpoint shared."""
    with contextlib.ExitStack() as stack:

        def start(model: Path = checkpoint, **options: Any) -> Sharer:
            sharer = Sharer(model, dict(os.environ), **{"device": "cpu", **options})
            stack.callback(sharer.kill)
            return sharer

        yield start


def test_a_second_process_maps_what_the_first_loaded(share: Share, demo_model_dir: Path) -> None:
    first = share(demo_model_dir)
    loaded = first.facts()
    second = share(demo_model_dir).facts()
    assert not loaded["mapped"] and second["mapped"]
    assert second["total"] == loaded["total"]
    again = first.ask("say")
    assert 0 < again["pss"] < 0.6 * loaded["pss"]  # one copy: each accounts for half


@pytest.mark.parametrize("options", [{"dtype": "bf16"}, {"quantization_bit": 4}, {"quantization_bit": 8}])
def test_shared_weights_are_those_of_a_load_of_ones_own(checkpoint: Path, options: dict[str, Any]) -> None:
    own = load_model(checkpoint, device="cpu", **options).state_dict()
    shared = load_model(checkpoint, device="cpu", shared=True, **options).state_dict()
    assert own.keys() == shared.keys()
    assert all(torch.equal(own[name], shared[name]) for name in own)


def test_a_group_size_is_kept_in_shared_weights(tmp_path: Path) -> None:
    wide = write_tiny_checkpoint(tmp_path / "wide", hidden_size=64, ffn_hidden_size=128, kv_channels=16)
    options: dict[str, Any] = {"device": "cpu", "quantization_bit": 4, "quantization_group_size": 64}
    own, shared = load_model(wide, **options), load_model(wide, shared=True, **options)
    ids = torch.arange(3, 12)[None]
    assert torch.equal(own(ids).logits, shared(ids).logits)


def test_another_precision_is_another_copy(checkpoint: Path) -> None:
    dtypes: list[dict[str, Any]] = [{}, {"dtype": "bf16"}, {"quantization_bit": 4}, {"quantization_bit": 8}]
    keys = [load_model(checkpoint, device="cpu", shared=True, **options) for options in dtypes]
    assert not any(model.shared_weights.mapped for model in keys)


def test_the_weights_outlive_the_process_that_loaded_them(share: Share) -> None:
    first = share()
    total = first.facts()["total"]
    second = share()
    second.facts()
    first.kill()
    assert second.ask("say")["total"] == total
    third = share().facts()  # the second one hands them on
    assert third["mapped"] and third["total"] == total


def test_what_one_process_writes_reaches_no_other(share: Share) -> None:
    first, second = share(), None
    total = first.facts()["total"]
    second = share()
    second.facts()
    assert second.ask("write")["total"] != total
    assert first.ask("say")["total"] == total
    assert first.ask("write")["total"] != total
    assert share().facts()["total"] == total


def test_of_processes_that_start_together_one_loads(share: Share) -> None:
    facts = [sharer.facts() for sharer in [share(), share(), share()]]
    assert sorted(fact["mapped"] for fact in facts) == [False, True, True]
    assert len({fact["total"] for fact in facts}) == 1


def test_a_replaced_checkpoint_is_not_mistaken_for_the_old_one(share: Share, checkpoint: Path) -> None:
    first = share().facts()
    write_tiny_checkpoint(checkpoint, seed=1)
    second = share().facts()
    assert not second["mapped"] and second["total"] != first["total"]


def test_weights_are_offered_for_as_long_as_the_model_lives(checkpoint: Path, share: Share, runtime: Path) -> None:
    model = load_model(checkpoint, device="cpu", shared=True)
    assert len(list(runtime.rglob("*.sock"))) == 1
    assert share().facts()["mapped"]
    del model
    assert not [path for path in runtime.rglob("*.sock") if path.name.startswith(f"{os.getpid()}-")]


def test_a_model_that_is_gone_keeps_no_memory(checkpoint: Path) -> None:
    def blocks() -> list[str]:
        opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [name for name in opened if "chatglm2-weights" in name]

    before = len(blocks())
    model = load_model(checkpoint, device="cpu", shared=True)
    assert len(blocks()) == before + 1
    del model
    gc.collect()
    assert len(blocks()) == before


def test_another_users_process_is_refused(
    checkpoint: Path, share: Share, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    model = load_model(checkpoint, device="cpu", shared=True)
    monkeypatch.setattr(peers, "user_of", lambda peer: os.getuid() + 1)  # as the system would tell it
    assert not share().facts()["mapped"]
    del model


def test_the_folder_of_sockets_is_the_users_alone(runtime: Path) -> None:
    directory = peers.runtime_directory()
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    assert peers.runtime_directory().stat().st_mode & 0o777 == 0o700
    directory.rmdir()
    directory.symlink_to("/tmp")
    with pytest.raises(PermissionError):
        peers.runtime_directory()


def test_a_folder_that_cannot_be_had_is_said_and_each_loads_its_own(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(peers.RUNTIME_VARIABLE, str(tmp_path / "file"))
    with caplog.at_level("INFO"):
        model = load_model(checkpoint, device="cpu", shared=True)
    assert model.shared_weights is None
    assert "Each loads its own copy" in caplog.text


@pytest.mark.parametrize("word", [b"", b"\x00\x00\x00\x02{}", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]garbage"])
def test_a_process_that_answers_nonsense_is_passed_over(
    checkpoint: Path, word: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "connections", lambda directory: [_nonsense(word)])
    model = load_model(checkpoint, device="cpu", shared=True)
    assert model.shared_weights is not None and not model.shared_weights.mapped


def _nonsense(word: bytes) -> peers.Connection:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(word)
    return peers.Connection(ours)


def test_a_sealed_block_cannot_be_mapped_for_writing() -> None:
    block = sharing.CpuBlock(4096)
    block.bytes.fill_(3)
    block.protect()
    with pytest.raises((RuntimeError, OSError)):
        torch.UntypedStorage.from_file(f"/proc/self/fd/{block.descriptor}", shared=True, nbytes=4096)
    assert bool((block.bytes == 3).all())


def test_a_model_that_is_copied_or_moved_leaves_its_shared_weights_alone(checkpoint: Path) -> None:
    model = load_model(checkpoint, device="cpu", shared=True)
    before = {name: tensor.clone() for name, tensor in model.shared_weights.tensors.items()}
    model.to(torch.bfloat16)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.shared_weights.tensors.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpus_copy_is_mapped_outlives_its_loader_and_cannot_be_written(share: Share) -> None:
    first = share(device="cuda")
    loaded = first.facts()
    second = share(device="cuda")
    mapped = second.facts()
    assert mapped["mapped"] and mapped["total"] == loaded["total"]
    first.kill()
    assert second.ask("say")["total"] == loaded["total"]
    third = share(device="cuda")
    assert third.facts()["mapped"]
    with pytest.raises(EOFError):  # the process that wrote is gone
        third.ask("write")
    assert second.ask("say")["total"] == loaded["total"]


def test_the_library_needs_nothing_that_only_unix_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows, where importing it fails
    again = importlib.util.spec_from_file_location("sharing_elsewhere", str(sharing.__file__))
    assert again is not None and again.loader is not None
    module = importlib.util.module_from_spec(again)
    monkeypatch.setitem(sys.modules, "sharing_elsewhere", module)
    again.loader.exec_module(module)
