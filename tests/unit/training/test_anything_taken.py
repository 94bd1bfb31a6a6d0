"""Whatever somebody hands over as a card, a prefix or a zip: it is taken whole, or refused in a sentence.

Each property is tried on what hypothesis invents.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inventions import GARBAGE, JSON, NUMBERS, SCALARS, TEXTS, damaged, in_a_sentence, tried
from past_runs import write_past_run
from safetensors.torch import load_file

from chatglm2 import ChatGLMConfig, load_prefix
from chatglm2.errors import PrefixError
from training.library.archive import pack, take_zip
from training.library.card import CARD_FILE, OURS, Card, Facts, parse_card, read_card, write_card
from training.library.entry import ORIGIN_FILE
from training.library.shelf import Shelf
from training.runs.store import Run

PREFIX, ORIGINAL = "prefix.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, demo_model_dir: Path) -> Run:
    """A run whose prefix is as it should be."""
    return write_past_run(tmp_path_factory.mktemp("output"), demo_model_dir, "good", (2,))


@pytest.fixture(scope="module")
def config(demo_model_dir: Path) -> ChatGLMConfig:
    return ChatGLMConfig.from_pretrained(str(demo_model_dir))


@pytest.fixture(scope="module")
def good_files(good: Run, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """A prefix as we write it, as the original does, and in a zip, by the files' names."""
    place = good.checkpoint_path(2)
    old, zipped = (tmp_path_factory.mktemp("files") / name for name in (ORIGINAL, "good.zip"))
    torch.save(load_file(place / PREFIX), old)
    pack(good.checkpoints()[-1], zipped)
    return {file.name: file.read_bytes() for file in (place / PREFIX, old, zipped)}


def require_usable(path: Path, config: ChatGLMConfig) -> None:
    """It answers with numbers, or says why not."""
    prefix = in_a_sentence(lambda: load_prefix(path, config))
    assert prefix is None or (prefix.length >= 0 and bool(torch.isfinite(prefix.key_values).all()))


# Cards

FRONT = [*("tags", "license", "license_name", "base_model", "library_name", "model-index", "language"), OURS]
CARD_VALUES = JSON | st.dictionaries(st.sampled_from([*Facts.model_fields, "name", "license"]), JSON, max_size=4)


@tried
@given(
    front=st.dictionaries(st.sampled_from(FRONT), CARD_VALUES, max_size=4).map(json.dumps) | TEXTS | st.text(),
    body=st.text(max_size=40),
)
def test_any_card_is_read_and_written_again_as_it_was_or_refused(tmp_path: Path, front: str, body: str) -> None:
    text = f"---\n{front}\n---\n{body}"  # JSON is YAML
    card = in_a_sentence(lambda: parse_card(text))
    if card is None:
        return
    write_card(tmp_path, card)
    again = read_card(tmp_path)
    assert again is not None
    assert (again.name, again.tags, again.notes, again.facts) == (card.name, card.tags, card.notes, card.facts)


@tried
@given(content=GARBAGE | st.text(max_size=60).map(lambda text: f"---\n{text}\n---\n".encode()))
def test_any_file_in_a_cards_place_hides_no_prefix(good: Run, content: bytes) -> None:
    (good.checkpoint_path(2) / CARD_FILE).write_bytes(content)
    (entry,) = Shelf(good.path.parent).entries()
    assert entry.info.step == 2
    f"{entry.name} {entry.tags}".encode()
    assert entry.matches("")


@tried
@given(values=st.dictionaries(st.sampled_from([*Card.model_fields]), JSON, max_size=3), typed=TEXTS)
def test_whatever_is_typed_into_a_card_is_kept_or_refused(tmp_path: Path, values: dict[str, Any], typed: str) -> None:
    card = in_a_sentence(lambda: Card().edited(**{"notes": typed, **values}))
    if card is not None:
        in_a_sentence(lambda: write_card(tmp_path, card))
        assert in_a_sentence(lambda: read_card(tmp_path)) is not None or not (tmp_path / CARD_FILE).exists()


# Files of weights

HEADERS = st.dictionaries(
    st.sampled_from(["transformer.prefix_encoder.embedding.weight", "embedding.weight", "x", "__metadata__"]) | TEXTS,
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "nothing"]),
            "shape": st.lists(st.integers(-1, 9) | st.just(2**62), max_size=4) | SCALARS,
            "data_offsets": st.lists(st.integers(0, 99) | NUMBERS, max_size=3),
        }
    )
    | JSON,
    max_size=3,
)


def with_header(header: Any, data: bytes) -> bytes:
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + data


@tried
@given(data=st.data())
def test_any_file_of_weights_is_a_prefix_or_refused(
    good_files: Mapping[str, bytes], config: ChatGLMConfig, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([PREFIX, ORIGINAL, "model.safetensors"]))
    like = ORIGINAL if name == ORIGINAL else PREFIX
    contents = damaged(good_files[like]) | GARBAGE
    if like == PREFIX:
        contents |= st.builds(with_header, HEADERS, st.binary(max_size=99))
    place = tmp_path / "checkpoint"
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(data.draw(contents))
    require_usable(place, config)
    (place / name).unlink()


TENSORS = st.sampled_from(
    [
        torch.zeros(2, 64),
        torch.zeros(1).expand(2**20, 2**10),
        torch.full((2, 64), float("nan")),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(3, dtype=torch.int8),
        torch.zeros(0),
        torch.zeros((), dtype=torch.bool),
        torch.zeros(2, dtype=torch.complex64),
    ]
)


def test_a_name_with_half_a_character_in_it_is_shown_in_its_sentence() -> None:
    error = PrefixError("found \ud800", "发现 \ud800")
    assert (str(error), error.zh) == ("found ?", "发现 ?")
    assert pickle.loads(pickle.dumps(error)).zh == "发现 ?"


@tried
@given(
    content=st.dictionaries(
        st.sampled_from(["transformer.prefix_encoder.embedding.weight", "embedding.weight", "trans.0.weight"]) | TEXTS,
        TENSORS | JSON,
        max_size=3,
    )
    | JSON
    | TENSORS
)
def test_anything_that_torch_saves_is_a_prefix_or_refused(config: ChatGLMConfig, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / ORIGINAL)
    require_usable(tmp_path, config)


# Zips

FOLDERS = ["", "a/", "b/", "../", "/", "a/../../", "C:\\", "a/" * 200]
FILES = [PREFIX, ORIGINAL, "prefix.json", "config.json", CARD_FILE, ORIGIN_FILE, "strength.json", "x", ""]
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS) | st.text(max_size=4),
        st.sampled_from(FILES),
        GARBAGE | st.just(b"the prefix"),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
        st.integers(0, 2**32 - 1) | st.just(0o120777 << 16),
    ),
    max_size=5,
)


def zipped(entries: list[tuple[str, str, bytes, int, int]], prefix: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for folder, name, held, method, attributes in entries:
            entry = zipfile.ZipInfo(f"{folder}{name}" or "x")
            entry.compress_type, entry.external_attr = method, attributes
            archive.writestr(entry, prefix if held == b"the prefix" else held)
    return content.getvalue()


@tried
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_any_zip_is_put_on_the_shelf_whole_or_leaves_nothing(
    good_files: Mapping[str, bytes], config: ChatGLMConfig, tmp_path: Path, data: st.DataObject
) -> None:
    invented = ENTRIES.map(lambda entries: zipped(entries, good_files[PREFIX]))
    file, output = tmp_path / "given.zip", tmp_path / "output"
    file.write_bytes(data.draw(invented | invented.flatmap(damaged) | damaged(good_files["good.zip"]) | GARBAGE))
    shelf = Shelf(output)
    place = in_a_sentence(lambda: take_zip(shelf, file))
    assert {item.name for item in tmp_path.iterdir()} <= {"given.zip", "output"}
    names = {item.name for item in shelf.root.iterdir()} - {".lock"}
    if place is None:
        assert not names
        return
    assert names == {place.name}
    assert all(item.is_file() and not item.is_symlink() for item in place.iterdir())
    require_usable(place, config)
    (entry,) = shelf.entries()
    f"{entry.name} {entry.tags}".encode()
    for item in place.iterdir():
        item.unlink()
    place.rmdir()


@tried
@given(
    content=GARBAGE | st.dictionaries(st.sampled_from(["kind", "name", "hub"]), JSON).map(json.dumps).map(str.encode)
)
def test_any_note_of_where_a_prefix_came_from_hides_no_other(
    good_files: Mapping[str, bytes], tmp_path: Path, content: bytes
) -> None:
    file, shelf = tmp_path / "given.zip", Shelf(tmp_path / "output")
    if not shelf.root.exists():
        file.write_bytes(good_files["good.zip"])
        for _ in range(2):
            take_zip(shelf, file)
    (shelf.root / "given-2" / ORIGIN_FILE).write_bytes(content)
    assert "given" in [info.path.name for info, _ in shelf.taken()]
