"""Files that claim more than they hold are refused before anything is allocated for them."""

from __future__ import annotations

import io
import json
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import build_model
from tiny_checkpoint import write_tiny_checkpoint

from chatglm2 import load_model, load_prefix
from chatglm2.errors import CheckpointError, PrefixError
from chatglm2.files import open_regular, read_regular
from chatglm2.model.prefix import TENSOR_NAMESPACE
from chatglm2.model.prefix_files import LONGEST_PREFIX_TOKENS

NAME = f"{TENSOR_NAMESPACE}embedding.weight"
CLAIMED = 2**31 - 1  # of elements, or of bytes
ALLOWED_GROWTH_BYTES = 200 * 2**20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_changed(file: Path, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A saved tensor of four numbers whose description was changed afterwards."""
    saved = io.BytesIO()
    torch.save({NAME: torch.zeros(4)}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(file, "w", compression) as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("data.pkl") else content)


def stride_of_zero(file: Path) -> None:
    torch.save({NAME: torch.zeros(1).expand(2000, 10**6)}, file)


def one_storage_many_times(file: Path) -> None:
    weight = torch.zeros(100, 100)
    torch.save({NAME: weight} | {f"another {index}": weight for index in range(1000)}, file)


def shape_beyond_its_storage(file: Path) -> None:
    long = b"K\x00J" + CLAIMED.to_bytes(4, "little") + b"\x85"
    write_changed(file, lambda content: content.replace(b"K\x00K\x04\x85", long))


def compressed(file: Path) -> None:
    write_changed(file, lambda content: content + bytes(50 * 2**20), zipfile.ZIP_DEFLATED)


def array_made_by_a_call(file: Path) -> None:
    call = b"\x80\x02cbuiltins\nbytearray\nJ" + CLAIMED.to_bytes(4, "little") + b"\x85R."
    write_changed(file, lambda _: call)


def without_data(file: Path) -> None:
    torch.save({NAME: torch.empty(2000, 10**6, device="meta")}, file)


def format_of_2019(file: Path) -> None:
    torch.save({NAME: torch.zeros(4)}, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "write",
    [
        stride_of_zero,
        one_storage_many_times,
        shape_beyond_its_storage,
        compressed,
        array_made_by_a_call,
        without_data,
        format_of_2019,
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_refused_unopened(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "pytorch_model.bin")
    config = build_model().config
    before = peak_bytes()
    with pytest.raises(PrefixError, match=r"pytorch_model\.bin"):
        load_prefix(tmp_path, config)
    assert peak_bytes() - before < ALLOWED_GROWTH_BYTES


def test_a_complete_model_is_checked_alike(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    torch.save({"transformer.embedding": torch.zeros(1).expand(2000, 10**6)}, directory / "pytorch_model.bin")
    before = peak_bytes()
    with pytest.raises(CheckpointError, match="claim 8,000,000,000 bytes, but only 4 are there"):
        load_model(directory, device="cpu")
    assert peak_bytes() - before < ALLOWED_GROWTH_BYTES


def test_a_prefix_is_no_longer_than_training_makes_them(tmp_path: Path) -> None:
    config = build_model().config
    weight = torch.zeros(LONGEST_PREFIX_TOKENS + 1, config.prefix_width)
    torch.save({NAME: weight}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PrefixError, match=r"2,049 tokens, at most 2,048"):
        load_prefix(tmp_path, config)


def test_tensors_that_are_cut_from_others_are_read(tmp_path: Path) -> None:
    """torch saves what a view is cut from, and views may be turned."""
    config = build_model().config
    whole = torch.randn(config.prefix_width, 9)
    torch.save({NAME: whole[:, 2:6].T}, tmp_path / "pytorch_model.bin")
    values = load_prefix(tmp_path, config).key_values
    torch.testing.assert_close(values.permute(2, 0, 1, 3, 4).flatten(1), whole[:, 2:6].T)


def test_a_prefix_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    config = build_model().config
    torch.save({NAME: torch.zeros(4, config.prefix_width, dtype=torch.int64)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PrefixError):
        load_prefix(tmp_path, config)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/hostname", "", 7, None])
def test_an_index_names_files_beside_it_and_no_others(tmp_path: Path, name: object) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name, "b": "model.safetensors"}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="a weight_map of file names"):
        load_model(directory, device="cpu")


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 10**6}, {"hidden_size": "4096"}, {"padded_vocab_size": -1}, {"rope_precision": "x"}, [1, 2]],
    ids=str,
)
def test_sizes_that_no_model_has_are_refused_at_once(tmp_path: Path, change: object) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    file = directory / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | change if isinstance(change, dict) else change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(directory, device="cpu")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for open_it in (open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match="not a regular file"):
            open_it(tmp_path / "pipe")


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    assert len(read_regular(tmp_path / "file", 10)) == 10
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_regular(tmp_path / "file", 9)
