"""A page reads what was uploaded to it and the folders that it was given, and tells nothing about anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.places import KEPT_DATA, UPLOADS, PlaceError, Places, places_for
from chatglm2.errors import ChatGLMError, DataError, PrefixError
from training.settings.samples import SAMPLE_DEV_FILE, SAMPLE_GENERAL_FILE
from training.settings.train import setting_fields

# Text that names nothing on this machine, or nothing that a form offers.
NO_NAMES_OF_FILES = {
    *("model_name_or_path", "prompt_column", "response_column", "history_column", "source_prefix", "prefix_text"),
    *("fsdp", "extra_arguments", "strengths"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.json").write_text("[]", encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def places(tmp_path: Path, data: Path) -> Places:
    return places_for(tmp_path / "output", [data], [data])


def refusal(places: Places, text: str) -> str:
    with pytest.raises(DataError) as caught:
        places.data_file(text)
    return caught.value.en.replace(text, "TYPED")


def test_files_of_the_folders_given_uploads_and_samples_are_read(places: Places, tmp_path: Path, data: Path) -> None:
    for file in (data / "rows.json", data / "deep" / "missing.json", SAMPLE_DEV_FILE):
        assert places.data_file(f" {file} ") == file
    for own in (UPLOADS, KEPT_DATA):
        assert places.data_file(str(tmp_path / "output" / own / "a1" / "x.json"))


def test_what_lies_outside_is_refused_in_the_same_words_whether_or_not_it_is_there(
    places: Places, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "secret.json").write_text("[]", encoding="utf-8")
    (tmp_path / "data-of-others").mkdir()
    (data / "link.json").symlink_to(tmp_path / "secret.json")
    (data / "dangling.json").symlink_to(tmp_path / "nothing.json")
    (data / "circle.json").symlink_to(data / "circle.json")
    (data / "folder").symlink_to(tmp_path)
    outside = [
        tmp_path / "secret.json",
        tmp_path / "nothing.json",
        tmp_path / "data-of-others" / "x.json",
        data / ".." / "secret.json",
        data / "folder" / "secret.json",
        *(data / name for name in ("link.json", "dangling.json")),
    ]
    others = ["~root/x.json", "~nobody-at-all/x.json", "/proc/self/environ", "\0", "x" * 5000, "", "/", "secret.json"]
    sentences = {refusal(places, str(text)) for text in outside}
    assert len(sentences) == 1 and "--data-dir" in sentences.pop()
    for text in others:
        with pytest.raises(DataError, match="--data-dir"):
            places.data_file(text)


def test_a_checkpoint_whose_files_lie_elsewhere_is_refused(places: Places, tmp_path: Path, data: Path) -> None:
    checkpoint = data / "run" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    assert places.checkpoint(str(checkpoint)) == checkpoint
    (tmp_path / "elsewhere.json").write_text("{}", encoding="utf-8")
    (checkpoint / "prefix.json").symlink_to(tmp_path / "elsewhere.json")
    for place in (checkpoint, checkpoint.parent, checkpoint / "pytorch_model.bin", tmp_path):
        with pytest.raises(PrefixError, match="--checkpoint-dir"):
            places.checkpoint(str(place))


def test_every_setting_that_names_a_file_says_so() -> None:
    texts = {item.name for item in setting_fields() if item.type == "str" and not item.choices and not item.reads}
    assert texts == NO_NAMES_OF_FILES


@pytest.mark.parametrize("item", [item for item in setting_fields() if item.reads], ids=lambda item: item.name)
def test_no_setting_names_a_file_outside(places: Places, data: Path, item: object) -> None:
    with pytest.raises(ChatGLMError, match=r"--(data|checkpoint)-dir"):
        places.setting(item, "/etc/passwd")  # type: ignore[arg-type]
    assert places.setting(item, str(data / "x")) == str(data / "x")  # type: ignore[arg-type]
    for nothing in ("", "none", " "):
        assert places.setting(item, nothing) == nothing  # type: ignore[arg-type]


def test_what_a_form_offers_is_read(places: Places) -> None:
    offered = {example for item in setting_fields() if item.reads == "data" for example in item.examples}
    assert str(SAMPLE_GENERAL_FILE) in offered
    for example in offered:
        assert places.data_file(example)


def test_a_folder_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match=r"--data-dir .*missing is not a folder"):
        places_for(tmp_path, [tmp_path / "missing"])
    with pytest.raises(PlaceError, match="--checkpoint-dir"):
        places_for(tmp_path, checkpoints=[tmp_path / "missing"])


def test_a_folder_that_is_a_link_is_read_through_it(tmp_path: Path, data: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    places = places_for(tmp_path / "output", [tmp_path / "link"])
    assert places.data_file(str(tmp_path / "link" / "rows.json")) == data / "rows.json"
