"""What is written is whole or not there, whoever else writes; what cannot be written is said in a sentence."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from app.places import places_for
from app.training.service import DataChoice, TrainingService
from chatglm2.errors import RunError
from training.runs import storage
from training.runs.storage import library_storage_error, remove_directory, storage_error, write_atomically
from training.runs.store import RunStore


def test_threads_that_replace_one_file_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: write_atomically(file, f"{number}" * 100), range(200)))
    assert len(set(file.read_text(encoding="utf-8"))) <= 3
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_is_removed_although_an_earlier_removal_was_cut_off(tmp_path: Path) -> None:
    for attempt in range(2):
        (tmp_path / "checkpoint-2" / f"{attempt}").mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage.shutil, "rmtree", lambda *args, **options: None)
            remove_directory(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-2").exists()


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file may grow beyond 8 KiB, as on a disk that is nearly full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_torch_cannot_write_is_said_without_its_own_words(tmp_path: Path, no_room: None) -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.save(torch.zeros(100_000), tmp_path / "optimizer.pt")
    refusal = library_storage_error(tmp_path / "checkpoint-2", torchs.value)
    assert "could not be written" in refusal.en and "无法写入" in refusal.zh
    for words in ("enforce", "inline_container", "PytorchStreamWriter", ".cc"):
        assert words not in refusal.en


def test_a_disk_without_space_is_named_where_a_library_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda place: full)
    refusal = library_storage_error(tmp_path / "checkpoint-2", RuntimeError("file write failed"))
    assert "no space left" in refusal.en and "空间不足" in refusal.zh


def test_a_disk_that_can_only_be_read_is_called_so() -> None:
    refusal = storage_error(Path("output"), OSError(errno.EROFS, "Read-only file system"))
    assert "can only be read" in refusal.en and "只读" in refusal.zh
    assert isinstance(refusal, RunError)


def test_a_data_file_that_the_disk_has_no_room_for_is_kept_whole_or_not_at_all(tmp_path: Path, no_room: None) -> None:
    source = tmp_path / "rows.json"
    source.write_text("x" * 8000)
    elsewhere: Any = None  # neither the model nor a trainer is asked
    service = TrainingService(
        RunStore(tmp_path), elsewhere, tmp_path / "output", elsewhere, places_for(tmp_path, data=[tmp_path])
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(RunError, match="cannot be written"):
        service._keep(DataChoice(str(source)))
    assert not [item for item in (tmp_path / "output").rglob("*") if item.is_file()]
