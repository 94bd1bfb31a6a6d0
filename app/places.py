"""Which places of this machine the page reads: what was uploaded, and folders that whoever started it has named.

Knows folders. The command line reads whatever its user may read; the page has callers who are not its user, so it says
nothing about what lies elsewhere, not even whether it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chatglm2.errors import ChatGLMError, DataError, PrefixError
from chatglm2.model.prefix_files import CANDIDATE_FILES
from training.library.card import CARD_FILE, card_file
from training.runs.checkpoints import METADATA_FILE, MODEL_METADATA_FILE, STRENGTH_FILE, TRAINER_STATE_FILE
from training.settings.field import NOTHING, SettingField
from training.settings.samples import PROJECT_ROOT, SAMPLE_TRAIN_FILE

# What is read of a checkpoint besides its tensors.
READ_BESIDE = (METADATA_FILE, MODEL_METADATA_FILE, TRAINER_STATE_FILE, STRENGTH_FILE, CARD_FILE, "config.json")
UPLOADS = ".uploads"
KEPT_DATA = ".data"
LIKED_FILE = "liked/liked-answers.jsonl"  # below what is kept


class PlaceError(ChatGLMError):
    """A folder that shall be read, and cannot be."""


@dataclass(frozen=True)
class Places:
    """Folders that are read, by their real paths: for data, and for checkpoints."""

    data: tuple[Path, ...]
    checkpoints: tuple[Path, ...]

    def data_file(self, text: str) -> Path:
        """The real path of a data file that somebody named.

        Raises:
            DataError: it lies elsewhere.
        """
        found = _within(text, self.data)
        if found is None:
            raise DataError(*_outside(text, self.data, "--data-dir", ("upload the file", "上传该文件")))
        return found

    def setting(self, item: SettingField, value: str) -> str:
        """A setting's value with the real path of what it names; values that a form offers are no names of files.

        Raises:
            ChatGLMError: it lies elsewhere.
        """
        if item.reads is None or value.strip().lower() in NOTHING or value in item.examples:
            return value
        return str(self.data_file(value) if item.reads == "data" else self.checkpoint(value))

    def checkpoint(self, text: str) -> Path:
        """The real path of a checkpoint that somebody named.

        Raises:
            PrefixError: it lies elsewhere, or files in it do.
        """
        found = _within(text, self.checkpoints)
        if found is None or not all(_within(str(file), self.checkpoints) for file in _files_of(found)):
            raise PrefixError(
                *_outside(text, self.checkpoints, "--checkpoint-dir", ("copy it there", "把它复制到这些目录中"))
            )
        return found


ROOT = Path(PROJECT_ROOT.anchor)
EVERYWHERE = Places((ROOT,), (ROOT,))


def places_for(output: Path, data: Iterable[Path] = (), checkpoints: Iterable[Path] = ()) -> Places:
    """The sample data, uploads, and what was kept of them; runs; and the folders given.

    Raises:
        PlaceError: a folder given is none.
    """
    own = (SAMPLE_TRAIN_FILE.parent, output / UPLOADS, output / KEPT_DATA)
    return Places(
        data=tuple(folder.resolve() for folder in (*own, *_existing(data, "--data-dir"))),
        checkpoints=tuple(folder.resolve() for folder in (output, *_existing(checkpoints, "--checkpoint-dir"))),
    )


def _existing(folders: Iterable[Path], flag: str) -> list[Path]:
    found = [folder.expanduser() for folder in folders]
    for folder in found:
        if not folder.is_dir():
            raise PlaceError(
                f"{flag} {folder} is not a folder. Give one that exists, such as {flag} ~/data.",
                f"{flag} {folder} 不是文件夹。请给出已存在的文件夹，例如 {flag} ~/data。",
            )
    return found


def _within(text: str, folders: tuple[Path, ...]) -> Path | None:
    """The real path behind ``text`` if it lies in one of the folders."""
    typed = text.strip()
    try:
        # Of other accounts' folders, "~name" would tell whether there is such an account.
        path = Path(typed).expanduser() if typed == "~" or typed.startswith("~/") else Path(typed)
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name too long, a zero byte
        return None
    return real if any(real.is_relative_to(folder) for folder in folders) else None


def _files_of(place: Path) -> Iterable[Path]:
    """What is read of a checkpoint, or of a run's checkpoints."""
    if not place.is_dir():
        return [card_file(place), *(place.parent / name for name in READ_BESIDE)]
    folders = [place, *place.glob("checkpoint-*")]
    return [folder / name for folder in folders for name in (*CANDIDATE_FILES, *READ_BESIDE)]


def _outside(text: str, folders: tuple[Path, ...], flag: str, instead: tuple[str, str]) -> tuple[str, str]:
    typed = text.strip()[:200]
    listed = [str(folder) for folder in folders]
    return (
        f"{typed!r} lies outside of the folders that this page reads ({', '.join(listed)}). Either {instead[0]}, or "
        f"start the page with {flag} and the folder that it is in.",
        f"{typed!r} 不在本页面可读取的目录中（{'、'.join(listed)}）。"
        f"请{instead[1]}，或在启动时用 {flag} 指定它所在的目录。",
    )
