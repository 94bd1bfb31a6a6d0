"""A checkpoint as one file to take away: all that belongs to its prefix, or the prefix in the original's format.

Knows where such a file lies until it is sent. What is in it is the matter of `training.library.archive` and of
`training.runs.export`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.chat.model_host import ModelOptions
from app.views.checkpoint_table import ORIGINAL_FORMAT
from app.web.uploads import scratch_folder
from chatglm2.checkpoints.export import ORIGINAL_FILE
from training.library.archive import full_name, pack
from training.runs.checkpoints import CheckpointInfo
from training.runs.export import ExportRequest, export
from training.runs.storage import explaining_storage_errors


@dataclass(frozen=True)
class Download:
    """A file to send under ``name``. ``directory``, which is temporary, holds it and nothing else."""

    file: Path
    name: str
    directory: Path

    def discard(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def prepare_download(info: CheckpointInfo, kind: str, served: ModelOptions) -> Download:
    """Writes the file that a person asked for, which the caller discards once it is sent.

    Args:
        info: the checkpoint.
        kind: `ORIGINAL_FORMAT` for the original's ``pytorch_model.bin``; anything else for a zip of our files.
        served: the model on the page, which is the base where the checkpoint's own is not found.

    Raises:
        ChatGLMError: the checkpoint holds no prefix that can be used, or the file cannot be written.
    """
    with explaining_storage_errors(scratch_folder()):
        directory = Path(tempfile.mkdtemp(prefix="download-", dir=scratch_folder()))
    try:
        if kind == ORIGINAL_FORMAT:
            file = _write_original(info, directory, served)
            return Download(file, file.name, directory)
        archive = directory / "checkpoint.zip"
        pack(info, archive)
        return Download(archive, f"{full_name(info)}.zip", directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _write_original(info: CheckpointInfo, directory: Path, served: ModelOptions) -> Path:
    target = directory / ORIGINAL_FORMAT
    export(ExportRequest(str(info.path), ORIGINAL_FORMAT, target, hub=served.hub, fallback_base=served.path))
    return target / ORIGINAL_FILE
